"""The request's `stack` object: the versions of the libraries that a run uses."""

from dataclasses import dataclass

from calculator.inputs.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class StackVersions:
    """The versions of the libraries that a run uses. The defaults are those of the reference step."""

    transformers: str = setting(
        "5.24",
        label="transformers",
        help="The release of transformers. Older releases keep other tensors; the answer lists the differences.",
        example="5.24",
    )
    peft: str = setting("0.21", label="peft", help="The release of PEFT.", example="0.21")
    bitsandbytes: str = setting("0.50", label="bitsandbytes", help="The release of bitsandbytes.", example="0.50")
    trl: str = setting(
        "1.16",
        label="TRL",
        help="The release of TRL, whose trainers changed their losses between releases.",
        example="1.16",
    )
    unsloth: str = setting(
        "2026.10",
        label="Unsloth",
        help="The release of Unsloth, whose kernels and loss changed between releases.",
        example="2026.10",
    )
    liger_kernel: str = setting("0.8.5", label="Liger", help="The release of liger-kernel.", example="0.8.5")
    torch: str = setting("2.14", label="PyTorch", help="The release of PyTorch.", example="2.14")


#: The stack of the reference step.
DEFAULT_STACK = StackVersions()
