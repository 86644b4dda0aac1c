"""The lesson's chapters, in the order in which they build on each other."""

from __future__ import annotations

from calculator.lesson.chapter import Chapter, Formula
from calculator.lesson.methods import ADAPTERS, FULL, NORMAL_FLOAT, PREFIX, QUANTIZED
from calculator.lesson.table import COMPARISON
from calculator.lesson.worked import accounts, block, counts, product, spectrum
from calculator.lesson.worked.on_model import ON_MODEL

CHAPTERS: tuple[Chapter, ...] = (
    Chapter(
        name="full",
        title="Full fine-tuning",
        summary="Why other methods exist: every weight needs a gradient and two Adam states.",
        formulas=(
            Formula(text=r"M = (2 + 2 + 4 + 4) N", says="bytes, by the lesson's rules, for N parameters"),
            Formula(text=r"'GPUs' = \ceil{\frac{M}{C}}", says="the fewest GPUs of C bytes with that much memory"),
        ),
        worked=(accounts.FULL, ON_MODEL["full"]),
        figures=FULL,
        experiments=("savings/cards",),
        method="full",
    ),
    Chapter(
        name="lora",
        title="LoRA",
        summary="A low-rank update of frozen weights. It changes nothing at the start of training.",
        formulas=(
            Formula(text=r"h = W_0 x + \frac{α}{r} B A x", says="the forward pass"),
            Formula(text=r"W_0 ∈ ℝ^{d×k}, B ∈ ℝ^{d×r}, A ∈ ℝ^{r×k}", says="the shapes; only B and A are trained"),
            Formula(text=r"r (d + k)", says="trained parameters per matrix, instead of dk"),
        ),
        worked=(counts.LORA, product.FORWARD, ON_MODEL["lora"]),
        experiments=("identity", "savings/lora", "overhead/lora"),
        method="lora",
    ),
    Chapter(
        name="rank",
        title="Intrinsic dimension and low rank",
        summary="Why few directions may be enough: how small a subspace can learn a task, and what rank an update has.",
        formulas=(
            Formula(text=r"θ = θ_0 + P z, z ∈ ℝ^d", says="training in a random subspace of d dimensions"),
            Formula(
                text=r"'share' \apply (r) = \frac{σ_1^2 + … + σ_r^2}{σ_1^2 + … + σ_n^2}",
                says="the share of the update's energy that rank r keeps",
            ),
        ),
        worked=(spectrum.SPECTRUM,),
        experiments=("intrinsic",),
    ),
    Chapter(
        name="merging",
        title="Merging",
        summary="The update has the weight's shape, so it can be added to it. Inference then costs nothing extra.",
        formulas=(
            Formula(text=r"W = W_0 + \frac{α}{r} B A", says="merged once, after training"),
            Formula(
                text=r"W x = W_0 x + \frac{α}{r} B A x", says="the same output, since products distribute over sums"
            ),
        ),
        worked=(product.MERGE,),
        experiments=("merging", "overhead/merged"),
    ),
    Chapter(
        name="quantisation",
        title="Quantization to NF4",
        summary="Sixteen levels, dense where normally distributed weights are, and one constant per block.",
        formulas=(
            Formula(text=r"\hat{w} = c q_i, c = 'max' |w|", says="a weight is its block's constant times a level"),
            Formula(text=r"q_i ∝ Φ^{-1} \apply (p_i)", says="a level is a quantile of the normal distribution"),
            Formula(
                text=r"4 + \frac{8}{b} + \frac{32}{256 b}",
                says="bits per weight in blocks of b, with the constants quantized too",
            ),
        ),
        worked=(block.BLOCK, block.BITS),
        figures=NORMAL_FLOAT,
        experiments=("nf4",),
    ),
    Chapter(
        name="qlora",
        title="QLoRA",
        summary="LoRA on a base model in 4 bits, which is dequantized for each product.",
        formulas=(
            Formula(text=r"h = 'dequantized' \apply (W_0) x + \frac{α}{r} B A x", says="the forward pass, in 16 bits"),
            Formula(
                text=r"M = \frac{N}{2} + (2 + 2 + 8) n", says="bytes, by the lesson's rules, for n trained parameters"
            ),
        ),
        worked=(accounts.QLORA, ON_MODEL["qlora"]),
        figures=QUANTIZED,
        experiments=("identity/qlora", "savings", "overhead/qlora"),
        method="qlora",
    ),
    Chapter(
        name="adapters",
        title="Adapters",
        summary="A bottleneck after attention and after the feed-forward part, with a residual connection.",
        formulas=(
            Formula(text=r"x + W_u σ \apply (W_d x + b_d) + b_u", says="down to r features, then up"),
            Formula(text=r"2 d r + r + d", says="parameters per adapter"),
            Formula(text=r"4 d r L", says="the approximate total for two adapters in each of L layers"),
        ),
        worked=(counts.ADAPTER, ON_MODEL["adapter"]),
        figures=ADAPTERS,
        experiments=("identity/adapter", "overhead/adapter"),
        method="adapter",
    ),
    Chapter(
        name="prefix",
        title="Prefix tuning",
        summary="Learned keys and values in front of every layer's own. No weight changes.",
        formulas=(
            Formula(
                text=r"'softmax' \apply (\frac{Q {[P_K; K]}^T}{\sqrt{h}}) [P_V; V]", says="attention with a prefix"
            ),
            Formula(
                text=r"2 p d L", says="trained parameters; with grouped-query attention, d is the width of the keys"
            ),
        ),
        worked=(counts.PREFIX, ON_MODEL["prefix"]),
        figures=PREFIX,
        experiments=("overhead/prefix",),
        method="prefix",
    ),
    Chapter(
        name="prompt",
        title="Prompt tuning",
        summary="Learned embeddings in front of the input. Nothing in the layers changes.",
        formulas=(
            Formula(text=r"[P; E \apply (x)], P ∈ ℝ^{p×d}", says="what the first layer reads"),
            Formula(text=r"p d", says="trained parameters"),
        ),
        worked=(counts.PROMPT, ON_MODEL["prompt"]),
        experiments=("overhead/prompt",),
        method="prompt",
    ),
    Chapter(
        name="comparison",
        title="The methods compared",
        summary="What each method trains, needs, costs at inference and is best for, computed for a model or sourced.",
        formulas=(),
        worked=(COMPARISON,),
        experiments=("overhead",),
    ),
    Chapter(
        name="papers",
        title="The papers' own runs",
        summary="What the runs in the papers that introduced the methods need, each as a request with its answer.",
        formulas=(),
    ),
    Chapter(
        name="exercises",
        title="Worked examples and problems",
        summary="The lesson's examples and problems, with its answers next to ours and a remark where they differ.",
        formulas=(),
    ),
)
