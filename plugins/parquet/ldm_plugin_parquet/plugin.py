"""The components of this distribution."""

from __future__ import annotations

from ldm_core import Component, hookimpl


@hookimpl
def ldm_components() -> list[Component]:
    """The reader of Parquet files."""
    return [
        Component(
            kind="dataset",
            name="parquet",
            config="ldm_plugin_parquet.config:ParquetConfig",
            factory="ldm_plugin_parquet.dataset:ParquetDataset",
            summary="pictures with captions, classes or boxes in Parquet files (Hugging Face datasets)",
            source="the format: Apache Parquet; features of columns as Hugging Face datasets writes them",
        )
    ]
