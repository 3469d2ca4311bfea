# SPDX-License-Identifier: Apache-2.0
"""Examples as tensorflow-datasets stores them: ArrayRecord files of tf.train.Example messages, the
images in them as the files they were."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import example_parser, naming, writer
from tensorflow_datasets.proto import tf_example_pb2

from jaxvl.data.example import Example

SPLIT = "train"
_FORMAT = "array_record"
_FEATURES = {
    "id": tfds.features.Text(),
    "question": tfds.features.Text(),
    "answer": tfds.features.Text(),
    "choices": tfds.features.Sequence(tfds.features.Text()),
    "images": tfds.features.Sequence(tfds.features.Image()),
    "task": tfds.features.Text(),
    "columns": tfds.features.Text(doc="everything else, as a JSON object"),
}


class _Writer(writer.ExampleWriter):
    """Writes messages with their features in order, so that the same examples give the same bytes:
    protobuf orders a map anew in every process."""

    def write(self, path: Any, examples: Iterator[tuple[Any, bytes]]) -> Any:
        ordered = ((key, _ordered(message)) for key, message in examples)
        return super().write(path, ordered)


def _ordered(message: bytes) -> bytes:
    return tf_example_pb2.Example.FromString(message).SerializeToString(deterministic=True)


class JaxvlExamples(tfds.core.ShardBasedBuilder):
    """One shard of examples in the order they are given; no examples where only the form matters.

    Made by `jaxvl data prepare`; `tfds.builder_from_directory` reads what it writes.
    """

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, examples: Sequence[Example] = (), data_dir: Path):
        self.examples = examples
        super().__init__(data_dir=data_dir, file_format=_FORMAT)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description="Questions about pictures, prepared by jaxvl.",
            features=tfds.features.FeaturesDict(_FEATURES),
            disable_shuffling=True,
        )

    def _example_writer(self) -> writer.ExampleWriter:
        return _Writer(self.info.file_format)

    def _shard_iterators_per_split(self, dl_manager: Any) -> dict[str, list]:
        return {SPLIT: [self._encoded]}

    def _encoded(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, example in enumerate(self.examples):
            yield number, encode(example)

    def _split_generators(self, dl_manager: Any) -> dict:
        raise NotImplementedError("shards are made by _shard_iterators_per_split")

    def _generate_examples(self) -> Iterator:
        raise NotImplementedError("shards are made by _shard_iterators_per_split")


def encode(example: Example) -> dict[str, Any]:
    """The features of an example; images are files, given as paths or bytes."""
    return {
        "id": example.id,
        "question": example.question,
        "answer": example.answer,
        "choices": list(example.choices),
        "images": [io.BytesIO(i) if isinstance(i, bytes) else i for i in example.images],
        "task": example.task,
        "columns": json.dumps(dict(example.columns), ensure_ascii=False, default=str),
    }


def write_shard(examples: Sequence[Example], folder: Path) -> Path:
    """One ArrayRecord file with the examples, somewhere below `folder`; its path."""
    builder = JaxvlExamples(examples=examples, data_dir=folder)
    builder.download_and_prepare()
    (path,) = builder.info.splits[SPLIT].filepaths
    return Path(path)


def shard_name(number: int, count: int) -> str:
    """The file name of a shard in a set of `count`."""
    return f"{JaxvlExamples.name}-{SPLIT}.{_FORMAT}-{number:05d}-of-{count:05d}"


def write_info(folder: Path, rows: Sequence[int], size: int) -> None:
    """The metadata of a set of shards with so many rows each and `size` bytes in all."""
    template = naming.ShardedFileTemplate(
        data_dir=epath.Path(folder),
        dataset_name=JaxvlExamples.name,
        split=SPLIT,
        filetype_suffix=_FORMAT,
    )
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(rows), num_bytes=size, filename_template=template
    )
    info = JaxvlExamples(data_dir=folder).info
    info.set_splits(tfds.core.SplitDict([split]))
    info.write_to_directory(folder)


class PreparedRecords(Sequence[Example]):
    """The examples of a prepared set, read one by one; images stay encoded."""

    def __init__(self, folder: Path):
        builder = tfds.builder_from_directory(folder)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self.records = builder.as_data_source(SPLIT, deserialize_method=raw)
        self.parser = example_parser.ExampleParserNp(builder.info.features.get_serialized_info())

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Example:  # type: ignore[override]  # no slices
        if not 0 <= i < len(self):
            raise IndexError(i)
        row = self.parser.parse_example(self.records[i])
        return Example(
            id=row["id"].decode(),
            question=row["question"].decode(),
            answer=row["answer"].decode(),
            images=tuple(bytes(image) for image in row["images"]),
            choices=tuple(choice.decode() for choice in row["choices"]),
            task=row["task"].decode(),
            columns=json.loads(row["columns"]),
        )
