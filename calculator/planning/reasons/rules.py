"""The rules that a plan follows, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A sentence that holds for every plan; it can't be created without its source."""

    name: str
    statement: str
    source: str

    def __post_init__(self) -> None:
        """Refuse a rule without a statement or a source."""
        if not self.statement.strip() or not self.source.strip():
            raise ValueError(f"the rule {self.name} needs a statement and a source")


_HU = "Hu et al. 2021, arXiv 2106.09685"
_LI = "Li & Liang 2021, arXiv 2101.00190"
_LESTER = "Lester et al. 2021, arXiv 2104.08691"
_HOULSBY = "Houlsby et al. 2019, arXiv 1902.00751"
_DETTMERS = "Dettmers et al. 2023, arXiv 2305.14314"
_BIDERMAN = "Biderman et al. 2024, arXiv 2405.09673"
_SCHULMAN = "Schulman et al. 2025, LoRA Without Regret, thinkingmachines.ai/blog/lora"
_ADAPTERS = "Hu et al. 2023, LLM-Adapters, arXiv 2304.01933"

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            name="fits",
            statement="A configuration is proposed only where its required bytes are within what the GPU offers.",
            source="POST /api/v1/estimate: the same figures",
        ),
        Rule(
            name="little_room",
            statement="Less than 5 % to spare is little: nvidia-smi showed up to 4.7 % more of published runs than is"
            " estimated, and a display or another process needs memory too.",
            source="python -m validation published: rows of nvidia-smi; calculator/planning/evaluator.py, MARGIN",
        ),
        Rule(
            name="divided_state",
            statement="Optimizer states, gradients and weights that GPUs divide leave each of them room for larger"
            " micro-batches, or for layers that are not recomputed.",
            source="Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054, section 3",
        ),
        Rule(
            name="communication",
            statement="What GPUs send to each other takes time that depends on their links: least with NVLink, more"
            " with PCIe, most between nodes.",
            source="github.com/NVIDIA/nccl-tests, doc/PERFORMANCE.md: bytes by the ring algorithm",
        ),
        Rule(
            name="fewer_gpus",
            statement="With fewer GPUs, each has a larger share of the batch, in more micro-batches.",
            source="POST /api/v1/estimate: the same figures",
        ),
        Rule(
            name="trained_share",
            statement="The trained share of all parameters may not exceed the requested one.",
            source="needs.max_trainable_fraction",
        ),
        Rule(
            name="merges",
            statement="Low-rank updates, IA³ vectors and tuned norms merge into the base: no adapter is left.",
            source=f"{_HU}, section 4.1",
        ),
        Rule(
            name="stays_beside",
            statement="Adapters, prefixes and prompts can't be merged into the weights: they stay at inference.",
            source=f"{_HU}, section 3 and table 1; {_LI}, section 4",
        ),
        Rule(
            name="unmergeable_base",
            statement="PEFT merges no update into a base in GPTQ or AWQ: the adapter stays at inference.",
            source="peft 0.21.2, tuners/lora/gptq.py and awq.py, which have no merge",
        ),
        Rule(
            name="merging_rounds",
            statement="An update of a 4-bit base is merged into 16 bits, or into the 4 bits, which rounds again.",
            source="peft 0.21, tuners/lora/bnb.py, Linear4bit.merge",
        ),
        Rule(
            name="served_merged",
            statement="A merged model is served without an adapter: in 16 bits, or with its weights rounded to 4 bits.",
            source="POST /api/v1/inference: the same figures",
        ),
        Rule(
            name="copy_per_task",
            statement="Full fine-tuning makes a whole model for each task.",
            source=f"{_HOULSBY}, section 1",
        ),
        Rule(
            name="one_base",
            statement="Unmerged adapters share one base: each further task adds only its adapter.",
            source=f"{_HOULSBY}, section 1; {_HU}, section 4.2; {_LESTER}, figure 2",
        ),
        Rule(
            name="held_at_once",
            statement="Where tasks switch per request, the base and every task's adapter are on the GPU.",
            source="needs.switch_per_request; what one request needs: POST /api/v1/inference",
        ),
        Rule(
            name="mixed_batch",
            statement="One batch may have requests for different adapters over one base, as long as none is merged.",
            source=f"LoRA: peft 0.21, tuners/lora/layer.py, _mixed_batch_forward; adapters: AdapterHub, BatchSplit,"
            f" docs.adapterhub.ml/adapter_composition; prefixes: {_LI}, section 8.2; prompts: {_LESTER}, figure 2;"
            f" merged weights can't: {_HU}, section 4.2",
        ),
        Rule(
            name="unmerged",
            statement="An unmerged update adds two thin products per matrix; an IA³ vector, one elementwise.",
            source=f"{_HU}, sections 4.1 and 4.2; launches at batch 1, of adapters: table 1; with a kernel for many"
            " tasks, 2 ms a token: Chen et al. 2023, Punica, arXiv 2310.18547, abstract",
        ),
        Rule(
            name="immutable_base",
            statement="An adapter leaves the base unchanged: a task is added without touching others.",
            source=f"{_HOULSBY}, sections 1 and 2",
        ),
        Rule(
            name="quantised_copy",
            statement="An adapter trained over a 4-bit copy of the base is fitted to that copy's rounded weights.",
            source=f"{_DETTMERS}, section 3",
        ),
        Rule(
            name="all_linear",
            statement="Which modules LoRA adapts matters more than its rank; all linear layers do best.",
            source=f"{_DETTMERS}, section 4; {_BIDERMAN}, section 6; {_SCHULMAN}",
        ),
        Rule(
            name="rank",
            statement="Rank 16 with alpha 2r is a good start; more data than instruction tuning needs a higher rank.",
            source=f"{_BIDERMAN}, section 6 and appendix",
        ),
        Rule(
            name="forgets_less",
            statement="LoRA forgets less of what the base knew than full fine-tuning does.",
            source=f"{_BIDERMAN}, abstract and section 4",
        ),
        Rule(
            name="learns_less",
            statement="On instructions LoRA keeps up with full fine-tuning; on billions of tokens it learns less.",
            source=f"{_BIDERMAN}, abstract; {_SCHULMAN}",
        ),
        Rule(
            name="adapter_quality",
            statement="Adapters come near full fine-tuning: series adapters scored 70.8 where LoRA scored 74.7.",
            source=f"{_HOULSBY}, abstract; {_ADAPTERS}, commonsense reasoning with LLaMA-7B",
        ),
        Rule(
            name="prefix_quality",
            statement="Prefixes learn less than changed weights: 64.6 where LoRA scored 74.7.",
            source=f"{_ADAPTERS}, commonsense reasoning with LLaMA-7B; Petrov et al. 2023, arXiv 2310.19698",
        ),
        Rule(
            name="prompt_scale",
            statement="Prompt tuning keeps up with full fine-tuning from about 10 billion parameters on.",
            source=f"{_LESTER}, section 3.2 and figure 1",
        ),
        Rule(
            name="ia3_quality",
            statement="With few examples per task, IA³ scored above full fine-tuning (T0-3B).",
            source="Liu et al. 2022, arXiv 2205.05638, section 3.3 and figure 2",
        ),
        Rule(
            name="ln_tuning_quality",
            statement="Tuned norms scored above LoRA on five tasks with images (13B); text alone was not measured.",
            source="Zhao et al. 2023, arXiv 2312.11420, abstract",
        ),
        Rule(
            name="frozen_products",
            statement="A frozen weight needs no gradient: two of its six operations per token are not needed.",
            source=f"{_SCHULMAN}; Kaplan et al. 2020, arXiv 2001.08361, section 2.1",
        ),
        Rule(
            name="recomputation",
            statement="Checkpointing keeps only each layer's input, and runs the layer's forward pass again.",
            source="Chen et al. 2016, arXiv 1604.06174, section 3",
        ),
        Rule(
            name="everything_kept",
            statement="Without checkpointing nothing is recomputed, and every layer's activations are kept.",
            source="Chen et al. 2016, arXiv 1604.06174, section 3",
        ),
        Rule(
            name="prefix_keeps",
            statement="A prefix is in the cache, which checkpointing switches off: PEFT refuses the two together.",
            source="peft 0.21, peft_model.py, PeftModel.add_adapter",
        ),
        Rule(
            name="four_bits",
            statement="NF4 stores a frozen weight in half a byte; each product dequantizes its weight first.",
            source=f"{_DETTMERS}, section 3; bitsandbytes/autograd/_functions.py, MatMul4Bit",
        ),
        Rule(
            name="four_bits_in_vain",
            statement="A 4-bit base is worth its dequantization only where it saves memory.",
            source=f"{_DETTMERS}, section 1: what it is for",
        ),
        Rule(
            name="not_prepared",
            statement="PEFT's preparation casts what is not in 4 bits to float32; it can be omitted.",
            source="peft 0.21, utils/other.py, prepare_model_for_kbit_training",
        ),
        Rule(
            name="states_8bit",
            statement="8-bit optimizer states train as well as 32-bit ones, with 2 bytes per parameter instead of 8.",
            source="Dettmers et al. 2022, arXiv 2110.02861, table 1",
        ),
        Rule(
            name="rounded_updates",
            statement="Weights trained in bfloat16 have 8 significant bits: smaller updates are rounded away.",
            source="Zamirai et al. 2020, arXiv 2010.06192, section 3",
        ),
        Rule(
            name="accumulation",
            statement="Micro-batches whose gradients accumulate form one batch, with the same operations.",
            source="transformers, TrainingArguments.gradient_accumulation_steps",
        ),
        Rule(
            name="shorter_sequences",
            statement="Longer texts are truncated or split, and no token attends beyond the sequence.",
            source="transformers, tokenization_utils_base.py, truncation",
        ),
        Rule(
            name="fused_attention",
            statement="Fused attention computes the same without keeping a score for each pair of positions.",
            source="Dao et al. 2022, arXiv 2205.14135, section 3.1",
        ),
        Rule(
            name="fused_optimizer",
            statement="A fused optimizer's step is one kernel, without temporaries as large as the parameters.",
            source="torch/optim/adam.py, _fused_adam and _multi_tensor_adam",
        ),
        Rule(
            name="paged_states",
            statement="Paged states are in managed memory: where the GPU is full they move to the host, slowly.",
            source=f"{_DETTMERS}, section 3, Paged Optimizers",
        ),
        Rule(
            name="double_quantisation",
            statement="Quantizing the block constants too saves 0.37 bits per weight, without loss of accuracy.",
            source=f"{_DETTMERS}, section 3 and table 3",
        ),
        Rule(
            name="half_precision",
            statement="bfloat16 has float32's range in half the bytes, with 8 significant bits instead of 24.",
            source="Kalamkar et al. 2019, arXiv 1905.12322, section 3",
        ),
        Rule(
            name="loaded_in_half_precision",
            statement="Frozen weights in half precision take half the bytes, and matrix products run in autocast's type"
            " anyway. TRL loads a model by its name in float32, unless model_init_kwargs sets its dtype.",
            source="TRL 1.16, trainer/utils.py, create_model_from_path; torch/amp/autocast_mode.py",
        ),
        Rule(
            name="loss_in_chunks",
            statement="chunked_nll builds the logits of 256 labeled tokens at a time, and again in the backward pass.",
            source="TRL 1.9, trainer/sft_trainer.py, chunked_nll",
        ),
        Rule(
            name="fused_head",
            statement="From 1.15 on, SFTTrainer computes the loss in tiles and never builds all logits.",
            source="TRL 1.16, kernels/chunked_logprob.py",
        ),
        Rule(
            name="liger_kernels",
            statement="Liger's kernels compute norms, MLP and loss with fewer saved tensors, and the same results up to"
            " rounding. They need Triton.",
            source="Hsu et al. 2024, arXiv 2410.10989, sections 3 and 4; liger_kernel/transformers/monkey_patch.py",
        ),
        Rule(
            name="cut_cross_entropy",
            statement="Cut Cross-Entropy computes the loss and its gradients from blocks of logits that it never keeps."
            " It needs Triton.",
            source="Wijmans et al. 2024, arXiv 2411.09009; cut_cross_entropy/cce.py",
        ),
        Rule(
            name="step_in_backward",
            statement="Each parameter's optimizer steps as soon as its gradient is ready, and frees it. No gradients"
            " are clipped or accumulated.",
            source="torchtune 0.6.1, training/memory.py, register_optim_in_bwd_hooks",
        ),
        Rule(
            name="packed_rows",
            statement="Packed sequences need no padding and no mask. FlashAttention keeps each sequence to itself.",
            source="TRL 1.16, trainer/sft_config.py, packing and padding_free",
        ),
        Rule(
            name="flattened_batches",
            statement="DataCollatorWithFlattening joins the samples of a micro-batch to one row, without padding."
            " FlashAttention keeps each sample to itself.",
            source="transformers 5.24, data/data_collator.py, DataCollatorWithFlattening",
        ),
        Rule(
            name="base_in_float16",
            statement="A base in AWQ is loaded in float16, whatever the dtype of the run.",
            source="transformers 5.24, quantizers/quantizer_awq.py, update_dtype",
        ),
        Rule(
            name="no_bfloat16",
            statement="Without bfloat16 the base is in float16, whose own gradients GradScaler refuses to unscale.",
            source="torch/amp/grad_scaler.py, _unscale_grads_",
        ),
    )
}
