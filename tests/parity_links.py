"""A chain of what the original computed, link by link: what goes into a loop's parts and what comes out of them.

Each link is computed from what is stored of the one before, so that a difference is found where it arises. The
networks of a golden set are untrained, and magnify: float32's rounding of their input (1e-7) comes out up to 5e-4
large, the original's own rounding as much as ours, and over the links of a chain it grows to 1e-2. A link that is out
is computed again with the networks' inputs rounded this way and that: what rounding alone does is no difference
(`rounding_aside`).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from musev_engine.loading import Models
from musev_engine.models.unet import ReferenceTokens
from musev_engine.sampling import denoise
from tests.golden_data import Case, Comparison, compare, compare_values

DRAWN, LATENTS, PREDICTIONS, PICTURES = 1e-5, 2e-3, 1e-3, 2e-3
ROUNDING = 1e-5  # of pictures in [0, 1]: several times what float32 leaves of a VAE's
ULP = 2.0**-23  # float32's, relative
LAYERS = 8  # roundings add up as the root of their number: those of 64 layers
TRIES = 3


@dataclass
class Links:
    """Compares what passes by with what `case` stores under that name, and hands the stored on; what isn't stored
    passes as it is. `free`: nothing is put back, a chain's roundings add up. rounding: a seed; what goes into the
    networks is rounded at random.

    call, step, win: where the chain is, as the names of what is stored say it. seen: what passed by.
    """

    case: Case
    dtype: torch.dtype = torch.float32
    free: bool = False
    rounding: int | None = None
    results: list[Comparison] = field(default_factory=list)
    call: int = 0
    step: int = 0
    win: int = 0
    seen: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, name: str, got: Tensor | None, atol: float) -> Tensor | None:
        expected = None if got is None else self.case.get(name)
        if expected is None:
            return got
        self.results.append(compare(name, got, expected, atol=atol))
        self.seen[name] = got.double()
        return got if self.free or got.shape != expected.shape else expected.to(got)

    def value(self, name: str, got: object, expected: object, atol: float = 0.0) -> bool:
        self.results.append(compare_values(name, got, expected, atol=atol))
        return self.results[-1].ok

    def of_call(self, name: str, got: Tensor | None, atol: float) -> Tensor | None:
        return self(f"call{self.call}.{name}", got, atol)

    def of_step(self, name: str, got: Tensor, atol: float) -> Tensor:
        return self.of_call(f"step{self.step}.{name}", got, atol)

    def of_window(self, name: str, got: Tensor, atol: float) -> Tensor:
        return self.of_step(f"win{self.win}.{name}", got, atol)

    def video(self, video: Tensor, either: Callable[[float], Tensor] | None = None) -> None:
        """video (b, t, 3, h, w) in [0, 1]: how many frames, those that are stored, and every frame's mean.

        either: of pictures brought to 8 bits, what they would be if each float had been as much larger or smaller; a
        value between two steps may fall to either, and what is stored must lie between."""
        shape = [video.shape[0], video.shape[2], video.shape[1], *video.shape[3:]]
        if not self.value("video_shape", shape, self.case.info["video_shape"]):
            return
        kept = self.case.info["video_frames_stored"]
        stored = video[:, kept].transpose(1, 2)
        expected = self.case.get("out.video_frames")
        if either is not None and expected is not None:
            bounds = torch.stack(
                [stored, *(either(off)[:, kept].transpose(1, 2) for off in (-ROUNDING, ROUNDING))]
            )
            stored = expected.to(stored).clamp(bounds.amin(0), bounds.amax(0))  # the nearest that ours may be
        self("out.video_frames", stored, PICTURES)
        self("out.video_frame_means", video.mean(dim=(2, 3, 4)), PICTURES)

    def denoise(self, predict, latents, scheduler, timesteps, **options) -> Iterator:
        """`sampling.denoise`, each step of which goes on from what is stored."""
        guide = options.get("guide", lambda noise_pred, step: noise_pred)
        settle = options.get("settle", lambda latents, step: latents)
        options["guide"] = lambda each, step: self.of_step(
            "noise_pred_guided", guide(each, step), PREDICTIONS
        )
        options["settle"] = lambda each, step: settle(self.of_step("latents_after", each, LATENTS), step)
        self.step = self.win = 0
        for state in denoise(predict, latents, scheduler, timesteps, **options):
            self.step, self.win = state.step + state.step_done, 0 if state.step_done else state.window
            yield state

    # ---- the networks -----------------------------------------------------------------------------------

    def rounded(self, values):
        """Tensors, however nested, rounded at random where this chain is."""
        if self.rounding is None:
            return values
        if isinstance(values, Tensor) and values.is_floating_point():
            draw = torch.Generator().manual_seed(self.rounding)
            return values * (1 + ULP * (2 * torch.rand(values.shape, generator=draw) - 1)).to(values)
        if isinstance(values, ReferenceTokens):
            return values.map(self.rounded)
        if isinstance(values, (list, tuple)):
            return type(values)(map(self.rounded, values))
        return values

    @contextmanager
    def watching(self, models: Models) -> Iterator[Models]:
        """What the networks are given and what they make is compared; they work in `dtype`."""
        networks = ("unet", "vae", "text_encoder", "referencenet", "image_encoder", "image_proj", "face_proj")
        for network in (*(getattr(models, name) for name in networks), *models.controlnets.values()):
            if network is not None:
                nn.Module.to(network, self.dtype)
        hooks = [
            models.unet.register_forward_pre_hook(self._before_unet, with_kwargs=True),
            models.unet.register_forward_hook(
                lambda net, _, out: self.of_window("unet_out", out, PREDICTIONS)
            ),
            *(net.register_forward_pre_hook(self._before_control) for net in models.controlnets.values()),
            *(
                net.register_forward_pre_hook(lambda net, inputs: self.rounded(inputs))
                for net in (models.vae.encoder, models.vae.decoder, models.image_encoder)
                if net is not None
            ),
        ]
        if models.referencenet is not None:
            hooks.append(models.referencenet.register_forward_pre_hook(self._before_reference))
            hooks.append(models.referencenet.register_forward_hook(self._after_reference))
        with ExitStack() as stack:
            for hook in hooks:
                stack.callback(hook.remove)
            yield models

    def _before_unet(self, unet, inputs, named):
        sample, *others = inputs
        if residuals := named.get("control_residuals"):
            (first, *down), mid = residuals
            down = [self.of_window("controlnet_down.0", first, PREDICTIONS), *down]
            named = named | {"control_residuals": (down, self.of_window("controlnet_mid", mid, PREDICTIONS))}
        sample = self.of_window("unet_sample", sample, LATENTS)
        return self.rounded((sample, *others)), {name: self.rounded(each) for name, each in named.items()}

    def _before_control(self, net, inputs):
        sample, *others = inputs
        stored = self.case.get(f"call{self.call}.step{self.step}.win{self.win}.unet_sample")
        if stored is not None and not self.free:
            sample = stored.transpose(1, 2).flatten(0, 1)[-len(sample) :].to(sample)
        return self.rounded((sample, *others))

    def _before_reference(self, net, inputs):
        stills, *others = inputs
        rows = stills.transpose(1, 2).flatten(0, 1)  # as the original has them
        rows = self.of_call("refer_image_vae_emb", rows, LATENTS)
        return self.rounded((rows.unflatten(0, (len(stills), -1)).transpose(1, 2), *others))

    def _after_reference(self, net, inputs, out):
        down, mid = out
        down = [self.of_call(f"refer_down.{i}", each, PREDICTIONS) for i, each in enumerate(down)]
        return down, self.of_call("refer_mid", mid, PREDICTIONS)


def run_links(
    case: Case, models: Models, nets: list[str], run: Callable[[Links, str], None], **how
) -> list[Comparison]:
    """The comparisons of a chain that `run` makes with one of the ControlNets `nets`: the one that the case was made
    with. It doesn't say which; it is the one whose residuals are those that are stored or, where none are, with which
    the UNet's predictions are. how: see `Links`."""

    def linked(net: str, seed: int | None = None) -> Links:
        links = Links(case, rounding=seed, **how)
        with links.watching(models):
            run(links, net)
        return links

    best: tuple[float, str, Links | None] = (math.inf, "", None)
    for net in nets or [""]:
        links = linked(net)
        told = [each for each in links.results if "controlnet_" in each.name]
        told = told or [each for each in links.results if "unet_out" in each.name]
        worst = max((each.max_abs for each in told), default=0.0)
        if best[2] is None or worst < best[0]:
            best = worst, net, links
        if all(each.ok for each in told):
            break
    _, net, links = best
    if all(each.ok for each in links.results):
        return links.results
    return rounding_aside(links, [linked(net, seed) for seed in range(TRIES)])


def rounding_aside(links: Links, rounded: list[Links]) -> list[Comparison]:
    """The comparisons, in which no link is out by as little as float32's rounding of its networks' inputs makes of it,
    times `LAYERS`: so far may two right computations be apart."""
    results = []
    for each in links.results:
        if not each.ok and each.name in links.seen:
            moved = [(other.seen[each.name] - links.seen[each.name]).abs().max().item() for other in rounded]
            if each.max_abs <= LAYERS * max(moved):
                each = replace(each, ok=True, note=f"rounding alone makes {max(moved):.1e} of it")
        results.append(each)
    return results
