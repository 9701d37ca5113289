"""The formats that a network is exported to, and which options each takes; without torch."""

from dataclasses import dataclass

from ..errors import UsageError


@dataclass(frozen=True)
class Format:
    """What a format is and which options make sense for it."""

    title: str
    int8: bool = False
    half: bool = False
    preprocessing: bool = False


FORMATS = {
    "onnx": Format("an ONNX file", int8=True, half=True, preprocessing=True),
    "openvino": Format("a folder with model.xml and model.bin", int8=True, half=True, preprocessing=True),
    "torch-export": Format("a file of torch.export (.pt2)", preprocessing=True),
    "executorch": Format("an ExecuTorch file (.pte)"),
    "safetensors": Format("the weights in one safetensors file", half=True),
    "torchvision": Format("a state dict for torchvision (.pth or .safetensors)", half=True),
    "timm": Format("a folder for timm", half=True),
    "transformers": Format("a folder for transformers", half=True),
    "triton": Format(
        "a model's folder for the Triton server, with an ONNX file", int8=True, half=True, preprocessing=True
    ),
}


def check_options(name: str, *, int8: bool = False, half: bool = False, preprocessing: bool = False) -> None:
    """Check that there is such a format and that it takes the options.

    Raises:
        UsageError: it does not; the message says which do.
    """
    if name not in FORMATS:
        raise UsageError(f"unknown format '{name}': the formats are {', '.join(FORMATS)}")
    if int8 and half:
        raise UsageError("--int8 and --half exclude each other: weights have 8 bits or 16")
    asked = {"int8": int8, "half": half, "preprocessing": preprocessing}
    for option, wanted in asked.items():
        if wanted and not getattr(FORMATS[name], option):
            flag = "--with-preprocessing" if option == "preprocessing" else f"--{option}"
            others = [other for other, known in FORMATS.items() if getattr(known, option)]
            raise UsageError(f"{name} takes no {flag}: {', '.join(others)} do")
