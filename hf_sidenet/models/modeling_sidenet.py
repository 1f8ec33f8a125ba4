# SPDX-License-Identifier: Apache-2.0
"""MainNets with SideNets ("Add a SideNet to your MainNet", Morisot, arXiv 2007.13512)."""

from collections.abc import Sequence

import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from .forward import classify
from .modalities import IMAGE, TEXT
from .modeling_base import SideNetOutput, SideNetPreTrainedModel
from .tasks import SINGLE_LABEL


class SideNetForSequenceClassification(SideNetPreTrainedModel):
    """Any transformers text classifier as MainNet, with SideNets.

    Args:
        config ([`SideNetConfig`]): `mainnet_config` selects the MainNet to build.
        mainnet (`PreTrainedModel`, *optional*): a MainNet to wrap; see [`~SideNetPreTrainedModel.from_mainnet`].
    """

    _auto_class = "AutoModelForSequenceClassification"
    mainnet_auto_class = AutoModelForSequenceClassification
    main_input_name = "input_ids"
    modality = TEXT
    tasks = (SINGLE_LABEL,)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.LongTensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        mainnet_logits: torch.FloatTensor | None = None,
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        *,
        bbox: torch.LongTensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        decoder_inputs_embeds: torch.FloatTensor | None = None,
        decoder_position_ids: torch.LongTensor | None = None,
        entity_attention_mask: torch.Tensor | None = None,
        entity_ids: torch.LongTensor | None = None,
        entity_position_ids: torch.LongTensor | None = None,
        entity_token_type_ids: torch.LongTensor | None = None,
        global_attention_mask: torch.Tensor | None = None,
        input_pronunciation_ids: torch.LongTensor | None = None,
        input_shape_ids: torch.LongTensor | None = None,
        lang_ids: torch.LongTensor | None = None,
        langs: torch.LongTensor | None = None,
        lengths: torch.LongTensor | None = None,
        mm_token_type_ids: torch.Tensor | None = None,
        perm_mask: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        pixel_values: torch.FloatTensor | None = None,
        target_mapping: torch.Tensor | None = None,
        task_type_ids: torch.LongTensor | None = None,
        xpath_subs_seq: torch.LongTensor | None = None,
        xpath_tags_seq: torch.LongTensor | None = None,
        **kwargs: torch.Tensor,
    ) -> SideNetOutput | tuple:
        """Classify a batch of texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*): token ids.
            attention_mask (`torch.Tensor` of shape `(batch, sequence)`, *optional*): 0 for padding.
            token_type_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*): segments.
            position_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*): positions.
            inputs_embeds (`torch.FloatTensor` of shape `(batch, sequence, width)`, *optional*): embeddings instead
                of ids.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): class indices, -100 for rows to ignore.
            mainnet_logits (`torch.FloatTensor` of shape `(batch, num_labels)`, *optional*):
                Recorded logits of the MainNet for distillation: in training, a frozen MainNet then stops after the
                last SideNet instead of running to its end. They also teach a MainNet that is trained.
            thresholds (`float`, `list[float]` or `torch.Tensor` of shape `(batch, num_sidenets)`, *optional*):
                θ for this call, by default the config's. Ignored in training, where no row exits early.
            output_hidden_states (`bool`, *optional*): return the MainNet's hidden states; only with exits off.
            output_attentions (`bool`, *optional*): return the MainNet's attentions; only with exits off.
            return_dict (`bool`, *optional*): `False` returns a tuple.
            bbox (`torch.LongTensor` of shape `(batch, sequence, 4)`, *optional*):
                Boxes of the tokens on their page (LayoutLM).
            decoder_attention_mask (`torch.Tensor` of shape `(batch, target)`, *optional*):
                0 for padding of the decoder.
            decoder_input_ids (`torch.LongTensor` of shape `(batch, target)`, *optional*):
                Token ids of the decoder (BART, T5).
            decoder_inputs_embeds (`torch.FloatTensor` of shape `(batch, target, width)`, *optional*):
                Embeddings instead of `decoder_input_ids`.
            decoder_position_ids (`torch.LongTensor` of shape `(batch, target)`, *optional*): positions of the decoder.
            entity_attention_mask (`torch.Tensor` of shape `(batch, entities)`, *optional*):
                0 for padding among entities (LUKE).
            entity_ids (`torch.LongTensor` of shape `(batch, entities)`, *optional*): ids of the entities.
            entity_position_ids (`torch.LongTensor` of shape `(batch, entities, mention)`, *optional*):
                Positions of their tokens.
            entity_token_type_ids (`torch.LongTensor` of shape `(batch, entities)`, *optional*):
                Segments of the entities.
            global_attention_mask (`torch.Tensor` of shape `(batch, sequence)`, *optional*):
                1 for tokens that attend to all (Longformer).
            input_pronunciation_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*):
                Pronunciations (RoCBert).
            input_shape_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*):
                Shapes of the characters (RoCBert).
            lang_ids (`torch.LongTensor` of shape `(batch,)`, *optional*): language of each row (X-MOD).
            langs (`torch.LongTensor` of shape `(batch, sequence)`, *optional*): language of each token (XLM).
            lengths (`torch.LongTensor` of shape `(batch,)`, *optional*): numbers of tokens (XLM).
            mm_token_type_ids (`torch.Tensor` of shape `(batch, sequence)`, *optional*): kind of each token (Qwen).
            perm_mask (`torch.Tensor` of shape `(batch, sequence, sequence)`, *optional*):
                Tokens that see each other (XLNet).
            pixel_attention_mask (`torch.Tensor` of shape `(batch, ...)`, *optional*): 0 for padding of the pictures.
            pixel_values (`torch.FloatTensor` of shape `(batch, ...)`, *optional*): pictures that belong to the texts.
            target_mapping (`torch.Tensor` of shape `(batch, predictions, sequence)`, *optional*):
                Tokens to predict (XLNet).
            task_type_ids (`torch.LongTensor` of shape `(batch, sequence)`, *optional*): tasks (ERNIE).
            xpath_subs_seq (`torch.LongTensor` of shape `(batch, sequence, depth)`, *optional*):
                Places in the page (MarkupLM).
            xpath_tags_seq (`torch.LongTensor` of shape `(batch, sequence, depth)`, *optional*):
                Tags in the page (MarkupLM).
            kwargs (`torch.Tensor`, *optional*): further inputs of the MainNet with one entry per row.

        Raises:
            ValueError: an argument is invalid; the message names it.
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "bbox": bbox,
            "decoder_attention_mask": decoder_attention_mask,
            "decoder_input_ids": decoder_input_ids,
            "decoder_inputs_embeds": decoder_inputs_embeds,
            "decoder_position_ids": decoder_position_ids,
            "entity_attention_mask": entity_attention_mask,
            "entity_ids": entity_ids,
            "entity_position_ids": entity_position_ids,
            "entity_token_type_ids": entity_token_type_ids,
            "global_attention_mask": global_attention_mask,
            "input_pronunciation_ids": input_pronunciation_ids,
            "input_shape_ids": input_shape_ids,
            "lang_ids": lang_ids,
            "langs": langs,
            "lengths": lengths,
            "mm_token_type_ids": mm_token_type_ids,
            "perm_mask": perm_mask,
            "pixel_attention_mask": pixel_attention_mask,
            "pixel_values": pixel_values,
            "target_mapping": target_mapping,
            "task_type_ids": task_type_ids,
            "xpath_subs_seq": xpath_subs_seq,
            "xpath_tags_seq": xpath_tags_seq,
            **kwargs,
        }
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return classify(
            self,
            inputs,
            labels=labels,
            mainnet_logits=mainnet_logits,
            thresholds=thresholds,
            extras=extras,
            return_dict=return_dict,
        )


class SideNetForImageClassification(SideNetPreTrainedModel):
    """Any transformers or timm image classifier as MainNet, with SideNets.

    Args:
        config ([`SideNetConfig`]): `mainnet_config` selects the MainNet to build.
        mainnet (`PreTrainedModel`, *optional*): a MainNet to wrap; see [`~SideNetPreTrainedModel.from_mainnet`].
    """

    _auto_class = "AutoModelForImageClassification"
    mainnet_auto_class = AutoModelForImageClassification
    main_input_name = "pixel_values"
    modality = IMAGE
    tasks = (SINGLE_LABEL,)

    def forward(
        self,
        pixel_values: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        mainnet_logits: torch.FloatTensor | None = None,
        thresholds: float | Sequence[float] | torch.Tensor | None = None,
        interpolate_pos_encoding: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.LongTensor | None = None,
        **kwargs: torch.Tensor,
    ) -> SideNetOutput | tuple:
        """Classify a batch of images.

        Args:
            pixel_values (`torch.FloatTensor` of shape `(batch, channels, height, width)`): the images.
            labels (`torch.LongTensor` of shape `(batch,)`, *optional*): class indices, -100 for rows to ignore.
            mainnet_logits (`torch.FloatTensor` of shape `(batch, num_labels)`, *optional*):
                Recorded logits of the MainNet for distillation: in training, a frozen MainNet then stops after the
                last SideNet instead of running to its end. They also teach a MainNet that is trained.
            thresholds (`float`, `list[float]` or `torch.Tensor` of shape `(batch, num_sidenets)`, *optional*):
                θ for this call, by default the config's. Ignored in training, where no row exits early.
            interpolate_pos_encoding (`bool`, *optional*): allow other image sizes, for MainNets that take it (ViT).
            output_hidden_states (`bool`, *optional*): return the MainNet's hidden states; only with exits off.
            output_attentions (`bool`, *optional*): return the MainNet's attentions; only with exits off.
            return_dict (`bool`, *optional*): `False` returns a tuple.
            attention_mask (`torch.Tensor` of shape `(batch, patches)`, *optional*): 0 for patches to ignore.
            pixel_attention_mask (`torch.Tensor` of shape `(batch, patches)`, *optional*): 0 for padding (SigLIP 2).
            spatial_shapes (`torch.LongTensor` of shape `(batch, 2)`, *optional*):
                Patches by height and width (SigLIP 2).
            kwargs (`torch.Tensor`, *optional*): further inputs of the MainNet with one entry per row.

        Raises:
            ValueError: an argument is invalid; the message names it.
        """
        inputs = {
            "pixel_values": pixel_values,
            "interpolate_pos_encoding": interpolate_pos_encoding,
            "attention_mask": attention_mask,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
            **kwargs,
        }
        extras = {"output_hidden_states": output_hidden_states, "output_attentions": output_attentions}
        return classify(
            self,
            inputs,
            labels=labels,
            mainnet_logits=mainnet_logits,
            thresholds=thresholds,
            extras=extras,
            return_dict=return_dict,
        )


class BertWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for BERT. The paper attaches at 4 of 12 and 8 of 24 blocks (§4)."""

    mainnet_model_type = "bert"


class DistilBertWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for DistilBERT. The paper attaches at 1 of 6 blocks (§4)."""

    mainnet_model_type = "distilbert"


class RobertaWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for RoBERTa."""

    mainnet_model_type = "roberta"


class XLMRobertaWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for XLM-RoBERTa."""

    mainnet_model_type = "xlm-roberta"


class CamembertWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for CamemBERT."""

    mainnet_model_type = "camembert"


class ElectraWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for ELECTRA."""

    mainnet_model_type = "electra"


class MPNetWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for MPNet."""

    mainnet_model_type = "mpnet"


class DebertaV2WithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for DeBERTa-v2 and v3."""

    mainnet_model_type = "deberta-v2"


class ModernBertWithSideNetForSequenceClassification(SideNetForSequenceClassification):
    """[`SideNetForSequenceClassification`] for ModernBERT."""

    mainnet_model_type = "modernbert"


class ResNetWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for transformers' ResNet. The paper attaches after stage 1 of 4 (§4)."""

    mainnet_model_type = "resnet"


class RegNetWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for transformers' RegNet."""

    mainnet_model_type = "regnet"


class ConvNextWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for transformers' ConvNeXT."""

    mainnet_model_type = "convnext"


class ConvNextV2WithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for transformers' ConvNeXT V2."""

    mainnet_model_type = "convnextv2"


class DeiTWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for DeiT, with or without teacher."""

    mainnet_model_type = "deit"


class Dinov2WithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for DINOv2."""

    mainnet_model_type = "dinov2"


class SwinWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for transformers' Swin."""

    mainnet_model_type = "swin"


class ViTWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for ViT."""

    mainnet_model_type = "vit"


class TimmWithSideNetForImageClassification(SideNetForImageClassification):
    """[`SideNetForImageClassification`] for timm models (needs `pip install "hf_sidenet[vision]"`)."""

    mainnet_model_type = "timm_wrapper"
