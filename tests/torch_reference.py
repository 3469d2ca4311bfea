# SPDX-License-Identifier: Apache-2.0
"""transformers' models in float32 on the CPU: the truth that parity tests hold ours to.

Arrays in and out are numpy. T tokens, P patches (all images of the call, packed in order),
E values a patch (transformers' `pixel_values`), I images, V vocabulary, B prompts, C completion.
grids_I3: (t, h, w) of each image in patches; an empty array where there is none.
"""

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, PreTrainedModel


def hf_model(path) -> PreTrainedModel:
    """The checkpoint at `path`, in eval mode, with the plain ("eager") attention."""
    model = AutoModelForImageTextToText.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager"
    )
    return model.eval()


def hf_inputs(model, tokens_BT, patches_PE, grids_I3, mask_BT=None) -> dict[str, torch.Tensor]:
    """Keyword arguments for the model's forward; mask_BT is 1 on real tokens (default: all)."""
    tokens_BT = torch.as_tensor(np.asarray(tokens_BT), dtype=torch.long)
    mask = np.ones(tokens_BT.shape) if mask_BT is None else np.asarray(mask_BT)
    inputs = {
        "input_ids": tokens_BT,
        "attention_mask": torch.as_tensor(mask, dtype=torch.long),
        "mm_token_type_ids": (tokens_BT == model.config.image_token_id).int(),
    }
    if len(grids_I3):
        inputs["pixel_values"] = torch.as_tensor(np.asarray(patches_PE, np.float32))
        inputs["image_grid_thw"] = torch.as_tensor(np.asarray(grids_I3), dtype=torch.long)
    return inputs


def hf_logits(model, tokens_T, patches_PE, grids_I3) -> np.ndarray:
    """Logits [T, V] of one unpadded prompt."""
    return hf_padded_logits(model, [tokens_T], patches_PE, grids_I3)[0]


def hf_padded_logits(model, tokens_BT, patches_PE, grids_I3, mask_BT=None) -> np.ndarray:
    """Logits [B, T, V] of a batch padded on either side; those of padding mean nothing."""
    with torch.no_grad():
        return model(**hf_inputs(model, tokens_BT, patches_PE, grids_I3, mask_BT)).logits.numpy()


def hf_greedy(model, tokens_T, patches_PE, grids_I3, max_new_tokens: int, never=()) -> np.ndarray:
    """The greedy completion [C] of one unpadded prompt, without the tokens in `never`.

    It is always of `max_new_tokens`, past any end.
    """
    inputs = hf_inputs(model, [tokens_T], patches_PE, grids_I3)
    with torch.no_grad():
        ids = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=None,
            suppress_tokens=list(never) or None,
        )
    return ids[0, len(tokens_T) :].numpy()


def hf_positions(model, tokens_BT, grids_I3, mask_BT=None) -> np.ndarray:
    """M-RoPE positions [B, 3, T] (t, h, w) of prompts with images; 0 on padding."""
    inputs = hf_inputs(model, tokens_BT, [], [], mask_BT)
    positions_3BT, _ = model.model.get_rope_index(
        **inputs, image_grid_thw=torch.as_tensor(np.asarray(grids_I3), dtype=torch.long)
    )
    return positions_3BT.transpose(0, 1).numpy()


def hf_gradients(model, tokens_BT, patches_PE, grids_I3, weights_BT, mask_BT=None):
    """(loss, gradients) of sum over tokens t >= 1 of -weights_BT[t] * log p(token t | before).

    weights_BT[:, 0] is not read. Gradients: the model's own (transformers 5) parameter names ->
    arrays; a tied head is one with the embedding, under the embedding's name.
    """
    inputs = hf_inputs(model, tokens_BT, patches_PE, grids_I3, mask_BT)
    model.zero_grad()
    logps_BTV = torch.log_softmax(model(**inputs).logits[:, :-1], dim=-1)
    logps_BT = logps_BTV.gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    weights = torch.as_tensor(np.asarray(weights_BT), dtype=torch.float32)[:, 1:]
    loss = -(weights * logps_BT).sum()
    loss.backward()
    # A parameter that the loss does not reach (the tower, where there is no image) has no .grad.
    gradients = {
        name: (torch.zeros_like(p) if p.grad is None else p.grad.clone()).numpy()
        for name, p in model.named_parameters()
    }
    model.zero_grad()
    return loss.item(), gradients
