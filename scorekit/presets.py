"""The templates of the VQAScore families, each frozen under its name.

Lin et al., "Evaluating Text-to-Visual Generation with Image-to-Text Generation", ECCV 2024,
arXiv:2404.01291, and the public t2v_metrics code.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from scorekit.types import UsageError

LOWER = 'Does this figure show "{}"? Please answer yes or no.'
UPPER = 'Does this figure show "{}"? Please answer Yes or No.'
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions. "
)


@dataclass(frozen=True)
class Preset:
    """How a family is asked.

    Attributes
    ----------
    name : str
    question : str
        Its ``{}`` (or ``{text}``) is the text; everything else is literal.
    answer : str
        Whose probability is the score.
    counts_end : bool
        Whether the published number has the end token's probability in it.
    frame : str
        What stands around the question: ``{image}``, ``{bos}`` and ``{question}``; empty takes
        the checkpoint's chat template.
    space : str
        What stands between the prompt and the answer.
    square : bool
        The image is padded to a square with the mean colour.
    describe : str
        The question whose answer is a caption.
    """

    name: str
    question: str
    answer: str = "Yes"
    counts_end: bool = False
    frame: str = ""
    space: str = ""
    square: bool = False
    describe: str = "Describe this image."

    def ask(self, text: str) -> str:
        """The question about a text; braces, quotes and newlines of the text stay as they are."""
        mark = "{text}" if "{text}" in self.question else "{}"
        head, _, tail = self.question.partition(mark)
        return head + text + tail

    def with_words(self, question: str, answer: str) -> Preset:
        """The same with another question or answer, where they are given.

        Raises
        ------
        UsageError
            If the question does not say where the text goes, exactly once.
        """
        changed = self
        if question:
            marks = question.count("{text}")
            if marks > 1 or (marks == 0 and question.count("{}") != 1):
                raise UsageError(
                    f"a question says once where the text goes: {{text}}; {question!r}"
                )
            changed = replace(changed, question=question)
        return replace(changed, answer=answer) if answer else changed


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "clip-flant5",
            LOWER,
            counts_end=True,
            frame=VICUNA + "USER: {image}\n{question} ASSISTANT: ",
            square=True,
        ),
        Preset(
            "llava-1.5",
            LOWER,
            counts_end=True,
            frame=VICUNA + "USER: {image}\n{question} ASSISTANT:",
            space=" ",
            square=True,
        ),
        Preset("instructblip", "Question: " + LOWER, "yes", counts_end=True, frame="{question}"),
        Preset("qwen-vl", UPPER),
        Preset("gemma-3", UPPER),
        # As PaliGemma's processor puts it together.
        Preset("paligemma", UPPER, frame="{image}{bos}{question}\n"),
        Preset("generic", UPPER),
    )
}
PRESET_OF_TYPE = {
    "llava": "llava-1.5",
    "instructblip": "instructblip",
    "blip-2": "instructblip",
    "qwen2_vl": "qwen-vl",
    "qwen2_5_vl": "qwen-vl",
    "qwen3_vl": "qwen-vl",
    "qwen3_vl_moe": "qwen-vl",
    "gemma3": "gemma-3",
    "paligemma": "paligemma",
}
"""What ``auto`` means, by a checkpoint's ``model_type``; ``generic`` for all others."""
PRESETS_HASH = hashlib.sha256(repr(list(PRESETS.values())).encode()).hexdigest()[:12]
"""Goes into the fingerprints: a feature names its preset, whose words a release may change."""


def preset_named(name: str) -> Preset:
    """The preset of a name.

    Raises
    ------
    UsageError
        If there is none.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset {name!r}; there are auto, {', '.join(PRESETS)}")
    return PRESETS[name]
