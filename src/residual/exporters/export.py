"""The public `export`: a trained network as a file of another format, compared with the original first."""

import copy
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import RunError, UsageError
from ..models.network import Network
from ..runtime.files import found
from ..zoo.facts import model_facts
from ..zoo.model_folder import ModelConfig
from ..zoo.pretrained import find_model, open_model
from . import checking, executorch, openvino, torch_export, triton, weights
from .checking import Bounds, Check
from .formats import check_options
from .int8 import quantize
from .material import Material, find_material
from .metadata import metadata_of
from .onnx import OnnxNetwork, add_preprocessing, export_onnx, finish_onnx, halve_weights

WRITERS = {
    "safetensors": weights.write_safetensors,
    "torchvision": weights.write_torchvision,
    "timm": weights.write_timm,
    "transformers": weights.write_transformers,
}
FOLDERS = ("openvino", "timm", "transformers", "triton")
SUFFIXES = {"torchvision": (".pth", ".pt", ".safetensors"), "torch-export": (".pt2",)}


@dataclass(frozen=True)
class Exported:
    """What was written, how many bytes it has, what was compared, and on which images, a line each.

    `checks` is empty for formats that no engine runs: their weights were read back and compared.
    """

    path: Path
    format: str
    size: int
    checks: tuple[Check, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


@dataclass(frozen=True)
class _Job:
    """What is exported and how."""

    network: Network
    config: ModelConfig
    format: str
    metadata: dict[str, str]
    int8: bool
    half: bool
    with_preprocessing: bool

    @property
    def bounds(self) -> Bounds:
        return checking.INT8 if self.int8 else checking.HALF if self.half else checking.FLOAT32


def export(
    model: str | Path | Network,
    format: str,
    output: str | Path,
    *,
    int8: bool = False,
    half: bool = False,
    with_preprocessing: bool = False,
    data_dir: str | Path | None = None,
) -> Exported:
    """Write a trained network in another format.

    What an engine can run is run by it and compared with the original, in batches of several sizes, before
    the output gets its name; other formats are read back and their weights compared. The network's input is
    `images`, normalised float32 [N, 3, H, W], its first output `logits`, [N, classes].

    Args:
        model: a run folder, a model folder, the name of a pretrained model, or a network from `load_model` or
            `create_model(..., pretrained=True)`.
        format: "onnx", "openvino", "torch-export", "executorch", "safetensors", "torchvision", "timm",
            "transformers" or "triton".
        output: the file or folder to write, which must not exist.
        int8: quantise the network to 8 bits, see `quantize`.
        half: store the weights as float16.
        with_preprocessing: the file takes `images`, uint8 [N, H, W, 3] of any size, and gives `probabilities`
            at the model's temperature.
        data_dir: images to compare on, and whose training images calibrate INT8: a folder of photographs, see
            `load_photos`, or the folder of the CIFAR release that the model was trained on. By default images
            are drawn; nothing is downloaded.

    Raises:
        UsageError: an option does not fit the format or the network, the output exists, or the library that
            runs the format is not installed.
        CheckpointError: the model cannot be loaded, or the exported network gives other answers.
        DataError: the data folder has no images.
        RunError: the output cannot be written.
    """
    check_options(format, int8=int8, half=half, preprocessing=with_preprocessing)
    output = Path(output)
    _check_output(format, output)
    network, licence = _load(model)
    config: ModelConfig = network.config
    metadata = metadata_of(config, licence, with_preprocessing)
    job = _Job(network, config, format, metadata, int8, half, with_preprocessing)
    with torch.no_grad(), _staged(output, format in FOLDERS) as staged:
        if format in WRITERS:
            if format != "safetensors":
                weights.check_known(format, config)
            WRITERS[format](network, config, staged, metadata, half)
            checks: tuple[Check, ...] = ()
            notes = _notes_on_weights(job)
        else:
            material = find_material(config, None if data_dir is None else Path(data_dir))
            checks = _compare(job, _write(job, staged, material), material)
            notes = _notes(job, material)
        size = sum(file.stat().st_size for file in (staged, *staged.rglob("*")) if file.is_file())
    return Exported(output, format, size, checks, notes)


def _load(model: str | Path | Network) -> tuple[Network, str | None]:
    """Load the network and tell its licence.

    Raises:
        CheckpointError: it has no config.
        UsageError: its images are not RGB.
    """
    network = open_model(model)
    if network.config.in_channels != 3:
        raise UsageError(
            f"only networks of RGB images are exported: this one takes {network.config.in_channels} channels"
        )
    if isinstance(model, Network):
        return copy.deepcopy(network).cpu().eval(), None
    return network, model_facts(find_model(model)).licence


def _check_output(format: str, output: Path) -> None:
    if found(output.exists):
        raise UsageError(f"{output} exists already: an export overwrites nothing")
    wanted = SUFFIXES.get(format)
    if wanted and output.suffix not in wanted:
        raise UsageError(f"{output}: a file for {format} ends in {' or '.join(wanted)}")


@contextmanager
def _staged(output: Path, folder: bool) -> Iterator[Path]:
    """Give a path beside the output that gets the output's name at the end, unless something fails.

    Raises:
        RunError: it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=".export-", dir=output.parent))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise RunError(f"cannot write {output}: {error}") from error
    try:
        staged = place / output.name
        if folder:
            staged.mkdir()
        yield staged
        staged.replace(output)
    except OSError as error:
        raise RunError(f"cannot write {output}: {error}") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write(job: _Job, staged: Path, material: Material) -> nn.Module:
    """Write the file or folder and open it with its own engine."""
    network, config = job.network, job.config
    if job.format == "executorch":
        executorch.export_executorch(network, config.preprocessing.image_size, staged)
        return executorch.ExecuTorchNetwork(staged)
    if job.format == "torch-export":
        program = torch_export.export_program(network, config, job.with_preprocessing)
        torch_export.save_program(program, staged, job.metadata)
        return torch_export.TorchExportNetwork(staged)
    if job.format == "openvino":
        with tempfile.TemporaryDirectory() as place:
            file = Path(place) / "network.onnx"
            _write_onnx(job, file, material)
            openvino.convert_to_openvino(file, staged, job.metadata, job.half)
        return openvino.OpenVinoNetwork(staged)
    file = staged
    if job.format == "triton":
        file = staged / triton.MODEL
        file.parent.mkdir()
        triton.write_triton(network, config, staged, job.with_preprocessing)
    _write_onnx(job, file, material)
    return OnnxNetwork(file)


def _write_onnx(job: _Job, file: Path, material: Material) -> None:
    if job.int8:
        quantize(job.network, material.calibration, file)
    else:
        export_onnx(job.network, material.calibration, file)
    if job.half and job.format != "openvino":
        halve_weights(file)
    if job.with_preprocessing:
        preprocessing, classes = job.config.preprocessing, len(job.config.class_names)
        add_preprocessing(file, preprocessing, job.config.temperature, classes)
    finish_onnx(file, job.metadata)


def _compare(
    job: _Job, exported: Callable[[torch.Tensor], torch.Tensor], material: Material
) -> tuple[Check, ...]:
    largest = executorch.LARGEST_BATCH if job.format == "executorch" else checking.BATCHES[-1]
    return checking.compare(
        job.network,
        exported,
        material,
        job.config.preprocessing,
        bounds=job.bounds,
        temperature=job.config.temperature,
        with_preprocessing=job.with_preprocessing,
        largest_batch=largest,
    )


def _notes(job: _Job, material: Material) -> tuple[str, ...]:
    lines = [f"compared on {material.compared_on}"]
    if job.int8:
        lines.append(f"INT8 calibrated on {material.calibrated_on}")
    if job.format == "executorch":
        lines.append(f"takes 1 to {executorch.LARGEST_BATCH} images of one size")
    return tuple(lines)


def _notes_on_weights(job: _Job) -> tuple[str, ...]:
    lines = ["weights read back and compared: equal" + (" as float16" if job.half else "")]
    per_pixel = job.config.normalization.mean.dim() == 3
    if per_pixel and job.format in ("timm", "transformers"):
        lines.append(f"{job.format} knows no per-pixel mean: its mean over the pixels is given instead")
    if job.config.preprocessing.fit == "pad" and job.format == "transformers":
        lines.append("transformers' image processor does not pad: images are squished there")
    return tuple(lines)
