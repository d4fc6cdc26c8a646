"""Forward hooks that keep the activations to explain."""

from __future__ import annotations

from torch import Tensor, nn

from capecam.model.introspection import tensors_in
from capecam.model.target_layer import ENCODER


class ModuleOutput:
    """Keeps the output of one module, at which the graph for the backward begins.

    Args:
        path: of the module in the network.
    """

    needs_graph = False
    """True if the graph has to begin at the pixels."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._output: Tensor | None = None
        self.size: tuple[int, ...] = (0, 0)
        """(h, w) of the last output."""

    def attach(self, network: nn.Module) -> None:
        """Register the hook in a network, before those that read the output (transformers do)."""
        network.get_submodule(self._path).register_forward_hook(self._keep, prepend=True)

    def _keep(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        """Keep the output, and return a copy, which the next layer may change in place."""
        if not output.requires_grad:
            output = output.detach().requires_grad_()
        self._output, self.size = output, output.shape[-2:]
        return output.clone()

    def pop_output(self) -> Tensor | None:
        """Return the output of the last forward, and drop it; None if the module did not run."""
        output, self._output = self._output, None
        return output

    def __str__(self) -> str:
        return self._path


class FeatureMap(ModuleOutput):
    """Keeps a feature map that the encoder returns, which may be the output of no module.

    Deeper maps depend on it, so that the very tensor is kept, and the graph begins at the pixels.

    Args:
        index: among the encoder's tensors (``model.feature_map.find_feature_map``).
        encoder: path of the encoder.
    """

    needs_graph = True

    def __init__(self, index: int, encoder: str = ENCODER) -> None:
        super().__init__(encoder)
        self._index = index

    def _keep(self, _module: nn.Module, _inputs: object, output: object) -> None:  # type: ignore[override]
        """Keep the map, and leave the output as it is."""
        self._output = tensors_in(output)[self._index]
        self.size = self._output.shape[-2:]

    def __str__(self) -> str:
        return f"{super().__str__()}, feature map {self._index}"
