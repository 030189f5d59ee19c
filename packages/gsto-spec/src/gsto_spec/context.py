"""Multi-scale modules on one feature map, PPM and ASPP, as published and with gated paths (section 3.3).

A path that changes scale (a pooling bin; an atrous convolution; ASPP's image pooling) reads the gated
feature; what changes none (PPM's input itself, ASPP's 1x1 convolution) reads the feature as it is. The paper
gives no more than figure 4's caption, so each choice is marked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gsto_spec.blocks import Gate, Resampling, attend, conv_norm
from gsto_spec.builder import GraphBuilder


@dataclass(frozen=True, slots=True)
class Context:
    """How a module's paths are gated and brought back to one size.

    - `gate_function`: None, or what makes each path's own gate of the feature.
    - `projects_first`: a gated pooling path projects channels and then pools, as equations 1 and 2 do; the
      published modules pool first.
    """

    gate_function: Gate | None
    projects_first: bool
    resampling: Resampling

    def pyramid_pooling(self, build: GraphBuilder, path: str, x: str, bins: Sequence[int]) -> str:
        """PPM (Zhao et al. 2017): `x` beside its averages on `bins`, each of C / len(bins) channels.

        Names are those of the PSPNet authors' code: `PATH.features.K.1`, `.2`.
        """
        width = max(1, build.channels(x) // len(bins))
        pooled = [
            self._pooled(build, path, f"features.{k}", x, width, side, k) for k, side in enumerate(bins)
        ]
        return build.concat([x, *pooled], name=f"{path}/united")

    def atrous_pooling(self, build: GraphBuilder, path: str, x: str, rates: Sequence[int], width: int) -> str:
        """ASPP (Chen et al. 2017): 1x1, one atrous convolution per rate, image pooling; projected to `width`.

        Names are torchvision's: `PATH.convs.K.0`, `.1`, `PATH.project.0`, `.1`.
        """
        paths = [conv_norm(build, f"{path}.convs.0.0", f"{path}.convs.0.1", x, width, kernel=1)]
        for k, rate in enumerate(rates, 1):
            layers = f"{path}.convs.{k}"
            y = self._gated(build, path, x, k)
            paths.append(conv_norm(build, f"{layers}.0", f"{layers}.1", y, width, kernel=3, dilation=rate))
        last = len(rates) + 1
        paths.append(self._pooled(build, path, f"convs.{last}", x, width, 1, last))
        united = build.concat(paths, name=f"{path}/united")
        return conv_norm(build, f"{path}.project.0", f"{path}.project.1", united, width, kernel=1)

    def _gated(self, build: GraphBuilder, path: str, x: str, k: int) -> str:
        if self.gate_function is None:
            return x
        return attend(build, f"{path}.att_layers.{k}", x, self.gate_function)

    def _pooled(
        self, build: GraphBuilder, path: str, layers: str, x: str, width: int, side: int, k: int
    ) -> str:
        y, conv, norm = self._gated(build, path, x, k), f"{path}.{layers}.1", f"{path}.{layers}.2"
        pool = f"{path}/{layers}/pool"
        if self.gate_function is not None and self.projects_first:
            y = conv_norm(build, conv, norm, y, width, kernel=1)
            y = build.adaptive_avg_pool(y, size=(side, side), name=pool)
        else:
            y = build.adaptive_avg_pool(y, size=(side, side), name=pool)
            y = conv_norm(build, conv, norm, y, width, kernel=1)
        return self.resampling.up(build, y, x, f"{path}/{layers}/resize")
