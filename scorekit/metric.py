"""What every metric shares: parameters, signature pairs, and being called from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from scorekit.backbones.spec import BackboneOptions
from scorekit.types import Array, Feature, Features, Scores, UsageError


@dataclass(frozen=True)
class BaseMetric:
    """Base of the metrics: a frozen dataclass whose fields are the metric's parameters.

    A subclass states `name`, `version`, `title`, `range`, gives `needs` and `score`, and is
    otherwise a formula. `backbone` is a field of those that use one.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    version: ClassVar[int] = 1
    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (float("-inf"), float("inf"))
    scope: ClassVar[Literal["row", "set"]] = "row"
    differentiable: ClassVar[bool] = True
    """Whether the score of torch features carries a gradient (a rank does not)."""
    lower_is_better_parts: ClassVar[frozenset[str]] = frozenset()
    """Components whose direction is not the headline's."""
    aggregates: ClassVar[Mapping[str, Literal["mean", "median"]]] = {}
    """How a component is summed up over rows where the mean would mislead (a rank)."""

    @property
    def needs(self) -> Mapping[str, Feature]:
        """The features it needs, by the names that `score` reads."""
        raise NotImplementedError

    def score(self, features: Features) -> Array | Scores:
        """Scores of n rows from their features."""
        raise NotImplementedError

    def params(self) -> dict[str, Any]:
        """The metric's own parameters, in the order of the signature; no backbone."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "backbone"}

    def recipe(self, facts: Mapping[str, str]) -> dict[str, Any]:
        """The parameters as the signature shows them.

        Parameters
        ----------
        facts : mapping of str to str
            What the backbones decided where a parameter said "auto".
        """
        return {
            key: facts.get(key, value) if value == "auto" else value
            for key, value in self.params().items()
        }

    @classmethod
    def has_backbone(cls) -> bool:
        """Whether a backbone computes its features."""
        return any(f.name == "backbone" for f in fields(cls))

    @classmethod
    def from_strings(cls, params: Mapping[str, str], backbone: str | None = None) -> Self:
        """Build a metric from parameters as written on the command line.

        Raises
        ------
        UsageError
            If a parameter is unknown, or its value is not one of those allowed.
        """
        hints = get_type_hints(cls)
        known = [f.name for f in fields(cls) if f.name != "backbone"]
        given: dict[str, Any] = {}
        for key, text in params.items():
            if key not in known:
                raise UsageError(
                    f"{cls.name} has no parameter {key!r}; it has {', '.join(known) or 'none'}"
                )
            given[key] = _convert(cls.name, key, text, hints[key])
        if backbone is not None:
            if not cls.has_backbone():
                raise UsageError(f"{cls.name} uses no backbone")
            given["backbone"] = backbone
        return cls(**given)

    def with_backbone(self, backbone: str) -> Self:
        """The same metric on another backbone."""
        changed: dict[str, Any] = {"backbone": backbone}
        return replace(self, **changed)

    def __call__(
        self,
        images: Any,
        texts: str | Sequence[str] | None = None,
        *,
        differentiable: bool = False,
        options: BackboneOptions | None = None,
        **columns: Any,
    ) -> Any:
        """Score pairs from Python, the backbone staying loaded between calls.

        Parameters
        ----------
        images : sequence of images, or array or tensor (n, c, h, w)
            Paths, PIL images, numpy arrays, torch tensors on any device.
        texts : str or sequence of str
            One a pair, or one for all.
        differentiable : bool
            Return a torch tensor with gradients to the images, which must then be a float
            tensor (n, 3, h, w) with values in 0 to 1.
        options : BackboneOptions, optional
            Device, dtype, resize and the like.
        **columns
            Further fields of `scorekit.Sample`, one value a pair: ``source_image``,
            ``references``, ``item``, ...

        Returns
        -------
        ndarray (n,) of float64, or tensor (n,)

        Raises
        ------
        InputError
            If a pair can't be scored; `scorekit.score` gives a table with a status a row
            instead.
        """
        from scorekit.functional import call_metric

        return call_metric(
            self, images, texts, differentiable=differentiable, options=options, **columns
        )


def _convert(metric: str, key: str, text: str, hint: Any) -> Any:
    """Turn a parameter's text into the type of its field."""
    if get_origin(hint) is Literal:
        choices = [str(choice) for choice in get_args(hint)]
        if text not in choices:
            raise UsageError(f"{metric}: {key} is one of {', '.join(choices)}, not {text!r}")
        return get_args(hint)[choices.index(text)]
    try:
        if hint is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return hint(text)
    except (ValueError, KeyError, TypeError):
        wanted = getattr(hint, "__name__", str(hint))
        raise UsageError(f"{metric}: {key} must be a {wanted}, not {text!r}") from None
