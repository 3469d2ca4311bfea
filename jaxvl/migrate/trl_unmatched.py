# SPDX-License-Identifier: Apache-2.0
"""Arguments of TRL's scripts and of VLM-R1's that no field of a config here stands for."""

from __future__ import annotations

from typing import Any

# By the reason why nothing is lost without them.
NOTHING = {
    "every step is written to metrics.jsonl and rollouts/": (
        "logging_steps logging_first_step logging_strategy log_completions log_on_each_node "
        "num_completions_to_print log_unique_prompts wandb_log_unique_prompts logging_dir "
        "log_level disable_tqdm debug logging_nan_inf_filter log_multimodal"
    ),
    "attention is chosen by the device": "attn_implementation use_flash_attention_2",
    "programs are compiled as they are": (
        "use_liger_kernel use_liger_loss torch_compile torch_compile_backend torch_compile_mode"
    ),
    "columns always reach the rewards": "remove_unused_columns",
    "no code of a checkpoint is ever run": "trust_remote_code",
    "a run that is there goes on by itself": (
        "resume_from_checkpoint overwrite_output_dir do_train ignore_data_skip "
        "save_only_model save_safetensors load_best_model_at_end"
    ),
    "weights are loaded onto the mesh": "low_cpu_mem_usage use_cache model_revision device_map",
    "the run has no name but run.dir": "run_name project trackio_space_id",
    "the seed of the run deals out its data": "data_seed full_determinism",
    "sharding follows mesh.fsdp": (
        "deepspeed fsdp fsdp_config accelerator_config ddp_find_unused_parameters ddp_timeout "
        "ds3_gather_for_generation local_rank config_file master_addr master_port node_rank "
        "use_deepspeed main_process_port mixed_precision rdzv_backend rdzv_endpoint"
    ),
    "`jaxvl push` puts the export on the hub": "push_to_hub hub_model_id hub_strategy hub_token "
    "hub_private_repo",
    "reading threads hold what the device needs": "dataloader_pin_memory dataloader_drop_last "
    "dataloader_prefetch_factor dataloader_persistent_workers",
    "prompts are never cut: buckets are read off the data, data.too_long says what is dropped": (
        "max_prompt_length"
    ),
    "the sampler is the learner's model, in the same process": "use_vllm use_transformers_paged "
    "cache_implementation shuffle_dataset_buffer async_generate",
    "nothing is cached on the host": "torch_empty_cache_steps",
    "the loss needs no dropout but the adapters'": "disable_dropout lora_task_type",
    "not of this trainer": "dataset_train_name dataset_streaming gradient_checkpointing_kwargs "
    "this_is_not_used log_path",
}

# What changes a run and is not here: the value that changes nothing, and why.
ABSENT: dict[str, tuple[Any, str]] = {
    "repetition_penalty": (1.0, "no penalty: a completion is drawn from the policy itself"),
    "min_p": (None, "only top_p and top_k narrow a draw"),
    "top_entropy_quantile": (1.0, "every token is learnt from"),
    "sync_ref_model": (False, "the reference is what the run starts from"),
    "ref_model_mixup_alpha": (0.6, "the reference is what the run starts from"),
    "ref_model_sync_steps": (512, "the reference is what the run starts from"),
    "load_in_4bit": (False, "weights are not quantized: adapters stand beside bfloat16 ones"),
    "load_in_8bit": (False, "weights are not quantized: adapters stand beside bfloat16 ones"),
    "use_dora": (False, "adapters are plain LoRA"),
    "use_rslora": (False, "adapters are scaled by alpha / rank"),
    "lora_modules_to_save": (None, "model.train names whole parts"),
    "chat_template_path": (None, "put a chat_template.jinja into the checkpoint"),
    "tools": (None, "no tools are called"),
    "max_tool_calling_iterations": (None, "no tools are called"),
    "generation_kwargs": (None, "the draw is set by `sampling`"),
    "off_policy_mask_threshold": (None, "sampler and learner agree, no sequence is masked for it"),
    "use_bias_correction_kl": (False, "the KL is not weighted by the ratio"),
    "group_by_length": (False, "buckets hold prompts of like length"),
    "label_names": (None, "columns reach the rewards by their names"),
    "reward_method": (None, "give the reward in the config"),
    "max_anyres_num": (None, "of InternVL; Qwen2-VL takes model.max_pixels"),
}
