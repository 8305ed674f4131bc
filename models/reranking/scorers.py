"""Tokens of pairs to scores: one module a method.

Shapes: B pairs, T padded tokens, H hidden size, V vocabulary, Q query tokens of a batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from models.errors import ModelError
from models.layout import max_positions
from models.reranking.network import check_causal
from models.reranking.pair_tokens import PairTokenizer
from models.states import States

LOGIT_ROWS = 256
"""Rows of the vocabulary that are computed at a time: 256 x 152k x 4 bytes is 155 MB."""


class Scorer(nn.Module):
    """Padded pairs in, a score a pair out.

    Args:
        network: A transformers model with a head.
    """

    states: States | None = None
    """What computes the states of the network's backbone in its place; None: it does so itself."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def hidden(self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor) -> torch.Tensor:
        """Return the last hidden states [B, T, H] of a decoder."""
        if self.states is not None:
            return self.states(input_ids_BT, attention_mask_BT, None)
        states_BTH: torch.Tensor = self.network.base_model(
            input_ids=input_ids_BT, attention_mask=attention_mask_BT, use_cache=False
        ).last_hidden_state
        return states_BTH


class CrossEncoder(Scorer):
    """The logit of relevance; of two labels, the second one's logit above the first one's.

    Args:
        network: A transformers model for sequence classification with 1 or 2 labels.
        tokenizer: Its tokenizer.

    Raises:
        ModelError: It has more labels.
    """

    def __init__(self, network: Any, tokenizer: PairTokenizer) -> None:
        super().__init__(network)
        if network.config.num_labels not in (1, 2):
            raise ModelError(
                "a cross-encoder has one label or two",
                str(tokenizer.directory),
                got=f"{network.config.num_labels} labels",
            )
        self.has_types = getattr(network.config, "type_vocab_size", 0) > 1
        config = network.config
        if config.pad_token_id is None:
            # A decoder that classifies looks for the last token that is not this one, and refuses batches without
            # it. The last id is hardly ever text, where the first one is "!" in the vocabulary of GPT-2.
            config.pad_token_id = config.vocab_size - 1
        self._padding = int(config.pad_token_id)
        _float32_head(network)

    @property
    def backbone(self) -> Any:
        """The transformers model, head included: what is trained."""
        return self.network

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dimension(self) -> int:
        """Components of the state that the head reads."""
        return int(self.network.config.hidden_size)

    @property
    def max_tokens(self) -> int | None:
        """How many tokens the position embeddings cover; None where they set no limit."""
        return max_positions(self.network.config.to_dict())

    def forward(
        self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, second_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return float32 [B]; ``second_BT`` is 1 on the tokens of the second text."""
        types_BT = second_BT if self.has_types else None
        input_ids_BT = input_ids_BT.masked_fill(attention_mask_BT == 0, self._padding)
        types = {} if types_BT is None else {"token_type_ids": types_BT}
        given = (
            nullcontext()
            if self.states is None
            else _given(self.network.base_model, self.states(input_ids_BT, attention_mask_BT, types_BT))
        )
        with given:
            output = self.network(input_ids=input_ids_BT, attention_mask=attention_mask_BT, **types)
        logits_BL = output.logits.float()
        return logits_BL[:, 0] if logits_BL.shape[1] == 1 else logits_BL[:, 1] - logits_BL[:, 0]


@contextmanager
def _given(backbone: Any, states_BTH: torch.Tensor) -> Iterator[None]:
    """Have a backbone answer with states that are computed already, so that the head of its family runs on them."""
    from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

    pooler = getattr(backbone, "pooler", None)
    output = BaseModelOutputWithPoolingAndCrossAttentions(
        last_hidden_state=states_BTH, pooler_output=None if pooler is None else pooler(states_BTH)
    )
    backbone.forward = lambda *_arguments, **_options: output
    try:
        yield
    finally:
        del backbone.forward


def _float32_head(network: Any) -> None:
    """Compute the last product in float32, autocast or not.

    A logit of 8 in bfloat16 has steps of .06, and pairs would tie.
    """
    heads = [
        module
        for module in network.modules()
        if isinstance(module, nn.Linear) and module.out_features == network.config.num_labels
    ]
    if heads:
        head = heads[-1].float()
        head.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        head.forward = torch.autocast(head.weight.device.type, enabled=False)(head.forward)  # type: ignore[method-assign]


class YesNo(Scorer):
    """p(yes) among yes and no at the last token, as Qwen3-Reranker (arXiv 2506.05176) defines its score.

    Args:
        network: A causal language model.
        tokenizer: Its tokenizer, which knows both answers as single tokens.
    """

    def __init__(self, network: Any, tokenizer: PairTokenizer) -> None:
        super().__init__(network)
        self.answers = tokenizer.answer_ids()
        check_causal(network, lambda hidden: _logits(network, hidden), str(tokenizer.directory))

    def forward(
        self,
        input_ids_BT: torch.Tensor,
        attention_mask_BT: torch.Tensor,
        marked_BT: torch.Tensor,  # noqa: ARG002 (one signature for all methods)
    ) -> torch.Tensor:
        """Return float32 [B] in 0..1."""
        hidden_BTH = self.hidden(input_ids_BT, attention_mask_BT)
        rows = torch.arange(len(hidden_BTH), device=hidden_BTH.device)
        last_BH = hidden_BTH[rows, attention_mask_BT.sum(1) - 1]
        answers_B2 = _logits(self.network, last_BH)[:, list(self.answers)]
        return answers_B2.log_softmax(1)[:, 0].exp()


class QueryLikelihood(Scorer):
    """Mean log P(query token | document, query so far), as in UPR (arXiv 2204.07496, equation 2).

    Args:
        network: A causal language model.
        tokenizer: Its tokenizer.
    """

    def __init__(self, network: Any, tokenizer: PairTokenizer) -> None:
        super().__init__(network)
        check_causal(network, lambda hidden: _logits(network, hidden), str(tokenizer.directory))

    def forward(
        self, input_ids_BT: torch.Tensor, attention_mask_BT: torch.Tensor, query_BT: torch.Tensor
    ) -> torch.Tensor:
        """Return float32 [B], at most 0; ``query_BT`` is 1 on the tokens of the query.

        A query without a token is as likely beside any document: 0.
        """
        hidden_BTH = self.hidden(input_ids_BT, attention_mask_BT)
        # A token is predicted by the state before it; nothing comes before the first.
        row_Q, before_Q = query_BT[:, 1:].nonzero(as_tuple=True)
        targets_Q = input_ids_BT[row_Q, before_Q + 1]
        states_QH = hidden_BTH[row_Q, before_Q]
        log_p_Q = torch.cat(
            [
                _log_probabilities(_logits(self.network, states), targets)
                for states, targets in zip(
                    states_QH.split(LOGIT_ROWS), targets_Q.split(LOGIT_ROWS), strict=True
                )
            ]
        )
        sums_B = torch.zeros(len(input_ids_BT), device=log_p_Q.device).index_add_(0, row_Q, log_p_Q)
        return sums_B / query_BT[:, 1:].sum(1).clamp(min=1)


def _logits(network: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Return float32 logits over the vocabulary: softmax in bfloat16 would keep 8 bits of a probability."""
    logits: torch.Tensor = network.get_output_embeddings()(hidden).float()
    cap = getattr(network.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


def _log_probabilities(logits_QV: torch.Tensor, targets_Q: torch.Tensor) -> torch.Tensor:
    return logits_QV.gather(1, targets_Q[:, None])[:, 0] - logits_QV.logsumexp(1)
