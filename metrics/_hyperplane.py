"""The plane between source and target attributes, and the shortest way across it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from scorekit.types import Array

Classifier = Literal["logistic", "svm"]

FLAT = 1e-9
"""A weight vector no longer than this, relative to C, is rounding: no side differs."""

RANK = 1e-13
"""Squared lengths below this share of the largest are rounding: the rows don't extend there."""

MOST_STEPS = 1_000_000
"""Of the SVM's solver, which else goes on for ever where a large C meets inseparable sides."""


class Plane(NamedTuple):
    """f(z) = normal . z + offset, negative on the side of the source.

    Attributes
    ----------
    normal : array (d,) or (n, d)
        Zero where source and target attributes can't be told apart.
    offset : float or array (n,)
    """

    normal: Array
    offset: Any


def fit_plane(source: Array, target: Array, classifier: Classifier, C: float) -> Plane:
    """A linear classifier of source attributes (-1) against target attributes (+1).

    An L2 penalty keeps the normal in the span of the rows, so that n rows of d > n numbers are
    fitted in at most n dimensions: the rows' coordinates in an orthonormal basis of their span
    give the same objective, and the basis carries the normal back. It comes from the rows'
    Gram matrix, which is small, where a QR of the rows would wake every thread of the BLAS. The
    offset is not penalised.

    Parameters
    ----------
    source : array (s, d)
    target : array (t, d)
    classifier : {"logistic", "svm"}
        scikit-learn's `LogisticRegression` and `SVC` with a linear kernel.
    C : float
        What the loss weighs against half the squared length of the normal.

    Returns
    -------
    Plane
    """
    rows = np.concatenate([source, target]).astype(np.float64)
    side = np.repeat([-1, 1], [len(source), len(target)])
    squares, vectors = np.linalg.eigh(rows @ rows.T)
    kept = squares > RANK * squares[-1]
    lengths, vectors = np.sqrt(squares[kept]), vectors[:, kept]
    basis = rows.T @ (vectors / lengths)
    model = _classifier(classifier, C).fit(vectors * lengths, side)
    normal = basis @ model.coef_[0]
    if np.linalg.norm(normal) <= FLAT * min(1.0, C):
        normal = np.zeros_like(normal)
    return Plane(normal, float(model.intercept_[0]))


def _classifier(classifier: Classifier, C: float) -> Any:
    # Imported here: a run without augclip doesn't wait for scikit-learn.
    if classifier == "svm":
        from sklearn.svm import SVC

        return SVC(kernel="linear", C=C, tol=1e-10, max_iter=MOST_STEPS)
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=C, solver="newton-cholesky", tol=1e-10, max_iter=1000)


def fit_planes(
    sources: Sequence[Array], targets: Sequence[Array], classifier: Classifier, C: float
) -> Plane:
    """The planes of n rows; each distinct pair of attribute sets is fitted once.

    Parameters
    ----------
    sources, targets : sequences of n arrays (k_i, d)

    Returns
    -------
    Plane
        normal (n, d), offset (n,).
    """
    fitted: dict[tuple[bytes, bytes], Plane] = {}
    planes: list[Plane] = []
    for source, target in zip(sources, targets, strict=True):
        key = source.tobytes(), target.tobytes()
        if key not in fitted:
            fitted[key] = fit_plane(source, target, classifier, C)
        planes.append(fitted[key])
    return Plane(np.stack([p.normal for p in planes]), np.array([p.offset for p in planes]))


def shortest_shift(side: Array, normal: Array, margin: float) -> Array:
    """The least change v of a point that takes it to f = margin; 0 where it is there already.

    v = ((margin - f) / |normal|^2) * normal.

    Parameters
    ----------
    side : array (n,)
        f at the points.
    normal : array (n, d)
        Where it is zero, so is v.
    margin : float

    Returns
    -------
    array (n, d)

    Examples
    --------
    >>> import numpy as np
    >>> shortest_shift(np.asarray([-10.0, 1.0]), np.asarray([[3.0, 4.0]] * 2), 0.0)
    array([[1.2, 1.6],
           [0. , 0. ]])
    """
    squared = np.sum(normal * normal, axis=-1)
    steps = np.maximum(margin - side, 0.0) / np.where(squared == 0, 1.0, squared)
    return steps[:, None] * normal
