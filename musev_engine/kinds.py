"""What a checkpoint file is, told by its tensors' names and shapes; and a safetensors file's header, checked before it
is believed (https://github.com/huggingface/safetensors#format). Imports no torch.
"""

import json
import math
import re
import struct
from collections.abc import Mapping
from typing import BinaryIO, NamedTuple, Protocol

from musev_engine.errors import EngineError

PICKLES = (".ckpt", ".bin", ".pt", ".pth")  # PyTorch's own files
SUFFIXES = (".safetensors", *PICKLES)
SD1 = "Stable Diffusion 1"
MAX_HEADER_BYTES = 16 * 2**20  # the header of a LoRA that tells how it was trained has a megabyte or two
MAX_TRIGGER = 200  # letters
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32,
    "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


class Shaped(Protocol):
    """Whatever has a tensor's shape."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class Tensor(NamedTuple):
    """What a header tells of a tensor."""

    dtype: str
    shape: tuple[int, ...]


class Header(NamedTuple):
    """What a safetensors file tells of itself: its tensors, and texts of whoever wrote it."""

    tensors: dict[str, Tensor]
    texts: dict[str, str]


# ---- what a file is -------------------------------------------------------------------------------------

_SIGNS = (  # part of a key -> what has such keys; the first that is found counts
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter"),
    (r"^lora_(te2|te1)_", "a LoRA for Stable Diffusion XL"),
    (r"lora_(down|up|A|B)\.|\.lora\.(down|up)\.|_lora\.(down|up)\.|^lora_", "a LoRA"),
    (r"hada_w1|lokr_w", "a LyCORIS network"),
    (r"^(emb_params|string_to_param\.|clip_[gl]$)", "a textual inversion"),
    (r"motion_modules\.", "an AnimateDiff model"),
    (r"^conditioner\.embedders\.|add_embedding\.|label_emb\.", "Stable Diffusion XL"),
    (r"joint_blocks\.|transformer_blocks\.0\.norm1_context\.", "Stable Diffusion 3"),
    (r"double_blocks\.|single_transformer_blocks\.", "Flux"),
    (r"clip_txt_mapper|effnet_mapper", "Stable Cascade"),
    (r"^cond_stage_model\.model\.", "Stable Diffusion 2"),
    (r"controlnet_cond_embedding\.|^(control_model\.)?input_hint_block\.", "a ControlNet"),
)
_CONTEXT = {
    768: SD1,
    1024: "Stable Diffusion 2",
    1280: "Stable Diffusion XL's refiner",
    2048: "Stable Diffusion XL",
}
_LATENTS = {8: "a model that edits by instruction (InstructPix2Pix)", 9: "an inpainting model"}
_WORD_WIDTHS = _CONTEXT | {1280: "Stable Diffusion XL"}  # of a textual inversion's vectors
NOT_PLAIN_LORA = r"hada_w|lokr_w|dora_scale|lora_magnitude_vector|oft_|\.on_input$|\.diff(_b)?$"
_READS_TEXT = r"attn2[._](processor\.)?to_k(_lora)?\.(lora_down|lora_A|lora\.down|down)(\.\w+)?\.weight$"


def seems(tensors: Mapping[str, Shaped]) -> str:
    """What a file's keys and shapes look like, such as "Stable Diffusion XL" or "a LoRA"; "" if like nothing known."""
    for pattern, name in _SIGNS:
        if any(re.search(pattern, key) for key in tensors):
            return name
    for key, tensor in tensors.items():
        first = re.match(r"(model\.diffusion_model\.)?(conv_in|input_blocks\.0\.0)\.weight$", key)
        if first and len(tensor.shape) == 4 and tensor.shape[1] in _LATENTS:
            return _LATENTS[tensor.shape[1]]
    widths = [tensor.shape[1:] for key, tensor in tensors.items() if key.endswith("attn2.to_k.weight")]
    return _CONTEXT.get(math.prod(widths[0]), "") if widths else ""


def lora_seems(tensors: Mapping[str, Shaped]) -> str:
    """The same, and of a LoRA for which base it is: "a LoRA for Stable Diffusion 2"; "" where that doesn't show."""
    like = seems(tensors)
    if like == "a LoRA":
        base = _CONTEXT.get(text_width(tensors) or 0, "")
        return base and f"a LoRA for {base}"
    return like


def text_width(tensors: Mapping[str, Shaped]) -> int | None:
    """How wide the text is that a LoRA's layers read, None where it changes none of those."""
    widths = (tensor.shape[-1] for key, tensor in tensors.items() if re.search(_READS_TEXT, key))
    return next(widths, None)


ROLES = {  # what can be added by its file: what it is called
    "t2i": "an image model (a checkpoint of Stable Diffusion 1.5)",
    "lora": "a LoRA for Stable Diffusion 1.5",
    "embedding": "a textual inversion for Stable Diffusion 1.5",
    "vae": "a VAE of Stable Diffusion 1",
    "ip-adapter": "an IP-Adapter for Stable Diffusion 1.5",
    "controlnet": "a ControlNet for Stable Diffusion 1.5",
}


def role_of(tensors: Mapping[str, Shaped]) -> tuple[str, str]:
    """(role, what it seems to be): one of `ROLES`, or "" for what this engine can't take as one of them."""
    like = seems(tensors)
    odd = next((key for key in tensors if re.search(NOT_PLAIN_LORA, key)), None)
    if odd and like in ("a LoRA", "a LyCORIS network", ""):
        return "", f"another kind of change than a plain LoRA ({odd})"
    match like:
        case "a LoRA":
            like = lora_seems(tensors) or like
            return ("lora" if like in ("a LoRA", f"a LoRA for {SD1}") else ""), like
        case "an IP-Adapter":
            return _adapter(tensors)
        case "a textual inversion":
            return _words(tensors)
        case "a ControlNet":
            width = next(
                (t.shape[-1] for key, t in tensors.items() if key.endswith("attn2.to_k.weight")), 768
            )
            return ("controlnet", like) if width == 768 else ("", f"{like} for {_named(_CONTEXT, width)}")
    unet, text = (
        any(key.startswith(prefix) for key in tensors)
        for prefix in ("model.diffusion_model.", "cond_stage_model.transformer.")
    )
    if like == SD1 or (unet and not like):
        if unet and text:
            return "t2i", SD1
        return "", f"{SD1}'s UNet alone, without the text encoder" if like else ""
    if not like and _has_vae(tensors):
        return "vae", "a VAE"
    if not like and len(tensors) == 1:
        return _words(tensors)
    return "", like


def _adapter(tensors: Mapping[str, Shaped]) -> tuple[str, str]:
    if "image_proj.proj.0.weight" in tensors:
        return "", "an IP-Adapter that reads faces (FaceID)"
    widths = (tensor.shape[-1] for key, tensor in tensors.items() if key.endswith("to_k_ip.weight"))
    width = next(widths, None)
    if width is None or not any(key.startswith("image_proj.") for key in tensors):
        return "", "half of an IP-Adapter"
    return (
        ("ip-adapter", "an IP-Adapter")
        if width == 768
        else ("", f"an IP-Adapter for {_named(_CONTEXT, width)}")
    )


def _words(tensors: Mapping[str, Shaped]) -> tuple[str, str]:
    """Vectors that a word stands for; only a file that says so is called by that name."""
    told = [key for key in tensors if key == "emb_params" or key.startswith("string_to_param.")]
    if len(tensors) > 1 and len(told) != 1:
        return "", "a textual inversion for Stable Diffusion XL"
    shape = tensors[told[0] if told else next(iter(tensors))].shape
    if len(shape) not in (1, 2) or shape[-1] not in _WORD_WIDTHS:
        return "", "a textual inversion of another text encoder" if told else ""
    base = _WORD_WIDTHS[shape[-1]]
    return ("embedding", "a textual inversion") if base == SD1 else ("", f"a textual inversion for {base}")


def _has_vae(tensors: Mapping[str, Shaped]) -> bool:
    names = {key.removeprefix("first_stage_model.").partition(".")[0] for key in tensors}
    return {"encoder", "decoder", "quant_conv", "post_quant_conv"} <= names


def _named(names: dict[int, str], width: int) -> str:
    return names.get(width, f"another base (text {width} wide)")


# ---- safetensors ----------------------------------------------------------------------------------------


def header_size(begin: bytes, size: int) -> int:
    """How many bytes at a file's beginning tell what is in it. begin: its first 8; size: of the whole, bytes.

    Raises EngineError, code "bad_model", if they are no safetensors file's, or tell more than is bearable.
    """
    length = struct.unpack("<Q", begin[:8])[0] if len(begin) >= 8 else 0
    if not 2 <= length <= size - 8:
        raise _bad("This is no safetensors file: it doesn't begin with its header's length", length)
    if length > MAX_HEADER_BYTES:
        limit = f"A safetensors header has at most {MAX_HEADER_BYTES >> 20} MB here"
        raise _bad(limit, f"{length:,} bytes")
    return 8 + length


def read_header(begin: bytes, size: int) -> Header:
    """What a safetensors file tells, from its first `header_size` bytes; `size` is that of the whole.

    Raises EngineError, code "bad_model", unless the tensors' places follow one another from the header's end to the
    file's, each as long as its shape and type say.
    """
    end = header_size(begin, size)
    try:
        told = json.loads(begin[8:end])
    except (ValueError, RecursionError) as error:
        raise _bad("The header of this safetensors file can't be read", error) from None
    if not isinstance(told, dict):
        raise _bad("The header of this safetensors file is no list of tensors", type(told).__name__)
    texts = told.pop("__metadata__", {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _bad("The header of this safetensors file is damaged", "__metadata__")
    tensors, places = {}, []
    for name, row in told.items():
        tensor, place = _tensor(name, row)
        tensors[name] = tensor
        places.append((*place, name))
    at = 0
    for first, last, name in sorted(places):
        if first != at:
            raise _bad(
                "The tensors of this safetensors file overlap, or leave gaps", f"{name} at byte {first}"
            )
        at = last
    if at != size - end:
        raise _bad(f"This safetensors file should have {end + at:,} bytes", f"{size:,}")
    return Header(tensors, texts)


def header_of(file: BinaryIO, size: int) -> Header:
    """The same of an open file. Raises EngineError as `read_header`."""
    begin = file.read(8)
    return read_header(begin + file.read(header_size(begin, size) - 8), size)


def _tensor(name: str, row: object) -> tuple[Tensor, tuple[int, int]]:
    """A tensor and its place in the data."""
    try:
        dtype, shape, (first, last) = row["dtype"], row["shape"], row["data_offsets"]
        counts = [*shape, first, last]
        if not all(type(count) is int and 0 <= count < 2**48 for count in counts) or dtype not in DTYPE_BITS:
            raise ValueError(row)
        # a product of many large sizes is bounded before it is made
        if len(shape) > 16 or (last - first) * 8 != math.prod(shape) * DTYPE_BITS[dtype]:
            raise ValueError(row)
    except (TypeError, KeyError, ValueError):
        raise _bad(
            "A tensor in the header of this safetensors file is damaged", f"{name[:80]}: {row!r:.80}"
        ) from None
    return Tensor(dtype, tuple(shape)), (first, last)


def trigger(texts: Mapping[str, str]) -> str:
    """The words that bring out what a LoRA learned, as its file tells: the phrase that its maker named, else what its
    pictures were most often told to be; "" where it doesn't tell. At most `MAX_TRIGGER` letters."""
    if phrase := texts.get("modelspec.trigger_phrase", "").strip():
        return _printable(phrase)[:MAX_TRIGGER]
    try:
        folders = json.loads(texts.get("ss_tag_frequency", "{}")).values()
        counts: dict[str, int] = {}
        for folder in folders:
            for tag, count in folder.items():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + int(count)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return ""  # it only would have been a help
    often = sorted(counts, key=lambda tag: -counts[tag])[:5]
    return _printable(", ".join(often))[:MAX_TRIGGER]


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _bad(message: str, value: object) -> EngineError:
    return EngineError(message, str(value)[:200], "Download the file again.", code="bad_model")
