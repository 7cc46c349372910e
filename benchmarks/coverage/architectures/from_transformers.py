"""Networks of transformers, made from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.models.whisper import modeling_whisper as whisper

from benchmarks.coverage.architectures.net import Net

__all__ = ["NETS"]

LENGTH = 16
WIDTH, HEADS, LAYERS, INNER, WORDS = 64, 4, 2, 128, 100
TEXT: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "intermediate_size": INNER,
}
LANGUAGE: dict[str, Any] = {**TEXT, "num_key_value_heads": 2, "max_position_embeddings": 64}
VISION: dict[str, Any] = {**{k: v for k, v in TEXT.items() if k != "vocab_size"}, "image_size": 64, "patch_size": 16}


def _first(out: Any) -> Tensor:
    """The last hidden states, or the logits."""
    return out[0]


def _builder(model: str, config: str, settings: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        options = getattr(transformers, config)(**settings)
        options.use_cache = False
        # The eager attention is written out in MatMul and Softmax, which both exporters can do.
        options._attn_implementation = "eager"
        architecture = getattr(transformers, model, None) or whisper.WhisperEncoder
        return architecture(options)

    return build


def _words() -> dict[str, Tensor]:
    return {
        "input_ids": torch.arange(LENGTH).reshape(1, LENGTH),
        "attention_mask": torch.ones(1, LENGTH, dtype=torch.int64),
    }


def _text(name: str, model: str, config: str, settings: dict[str, Any]) -> Net:
    return Net(name, "transformers", _builder(model, config, settings), _words(), _first, dynamic=True)


def _pixels(name: str, model: str, config: str, settings: dict[str, Any], side: int = 64) -> Net:
    feed = {"pixel_values": torch.zeros(1, 3, side, side)}
    return Net(name, "transformers", _builder(model, config, settings), feed, _first, dynamic=True)


def _sound(name: str, model: str, config: str, settings: dict[str, Any], key: str, shape: tuple[int, ...]) -> Net:
    return Net(name, "transformers", _builder(model, config, settings), {key: torch.zeros(shape)}, _first, dynamic=True)


SPEECH: dict[str, Any] = {
    **TEXT,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 2),
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
SEGFORMER: dict[str, Any] = {
    "hidden_sizes": [16, 32, 64, 64],
    "depths": [1, 1, 1, 1],
    "num_attention_heads": [1, 2, 4, 4],
    "decoder_hidden_size": 32,
}
NETS = [
    _text("bert", "BertModel", "BertConfig", TEXT),
    _text("roberta", "RobertaModel", "RobertaConfig", TEXT),
    _text("distilbert", "DistilBertModel", "DistilBertConfig",
          {"vocab_size": WORDS, "dim": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "hidden_dim": INNER}),
    _text("electra", "ElectraModel", "ElectraConfig", {**TEXT, "embedding_size": 32}),
    _text("albert", "AlbertModel", "AlbertConfig", {**TEXT, "embedding_size": 32}),
    _text("mobilebert", "MobileBertModel", "MobileBertConfig",
          {**TEXT, "embedding_size": 32, "intra_bottleneck_size": 32, "num_feedforward_networks": 2}),
    _text("convbert", "ConvBertModel", "ConvBertConfig", {**TEXT, "embedding_size": 32}),
    _text("deberta_v2", "DebertaV2Model", "DebertaV2Config", {**TEXT, "relative_attention": True}),
    _text("mpnet", "MPNetModel", "MPNetConfig", TEXT),
    _text("squeezebert", "SqueezeBertModel", "SqueezeBertConfig", {**TEXT, "embedding_size": WIDTH}),
    _text("gpt2", "GPT2LMHeadModel", "GPT2Config",
          {"vocab_size": WORDS, "n_embd": WIDTH, "n_head": HEADS, "n_layer": LAYERS}),
    _text("gpt_neox", "GPTNeoXForCausalLM", "GPTNeoXConfig", {**TEXT, "max_position_embeddings": 64}),
    _text("opt", "OPTForCausalLM", "OPTConfig",
          {"vocab_size": WORDS, "hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
           "ffn_dim": INNER, "word_embed_proj_dim": WIDTH, "max_position_embeddings": 64}),
    _text("llama", "LlamaForCausalLM", "LlamaConfig", LANGUAGE),
    _text("qwen2", "Qwen2ForCausalLM", "Qwen2Config", LANGUAGE),
    _text("mistral", "MistralForCausalLM", "MistralConfig", LANGUAGE),
    _text("gemma", "GemmaForCausalLM", "GemmaConfig", {**LANGUAGE, "head_dim": 16}),
    _text("phi3", "Phi3ForCausalLM", "Phi3Config",
          {**LANGUAGE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
    _text("t5_encoder", "T5EncoderModel", "T5Config",
          {"vocab_size": WORDS, "d_model": WIDTH, "d_kv": 16, "d_ff": INNER, "num_layers": LAYERS, "num_heads": HEADS}),
    _pixels("vit", "ViTModel", "ViTConfig", VISION),
    _pixels("deit", "DeiTModel", "DeiTConfig", VISION),
    _pixels("beit", "BeitModel", "BeitConfig", {**VISION, "use_relative_position_bias": True}),
    _pixels("dinov2", "Dinov2Model", "Dinov2Config", VISION),
    _pixels("siglip_vision", "SiglipVisionModel", "SiglipVisionConfig", VISION),
    _pixels("clip_vision", "CLIPVisionModel", "CLIPVisionConfig", VISION),
    _pixels("segformer", "SegformerForSemanticSegmentation", "SegformerConfig", SEGFORMER),
    _pixels("swin", "SwinModel", "SwinConfig",
            {"image_size": 64, "patch_size": 4, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4],
             "window_size": 4}),
    _pixels("convnextv2", "ConvNextV2Model", "ConvNextV2Config",
            {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64]}),
    _pixels("regnet", "RegNetModel", "RegNetConfig", {}),
    _pixels("mobilevit", "MobileViTModel", "MobileViTConfig", {"image_size": 64}),
    _pixels("yolos", "YolosModel", "YolosConfig", {**VISION, "image_size": [64, 64], "num_detection_tokens": 10}),
    _pixels("dpt", "DPTForSemanticSegmentation", "DPTConfig",
            {**VISION, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "use_auxiliary_head": False,
             "neck_hidden_sizes": [16, 32, 48, 64], "fusion_hidden_size": 32}),
    _pixels("detr", "DetrForObjectDetection", "DetrConfig",
            {"use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
             "d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": HEADS,
             "decoder_attention_heads": HEADS, "encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "num_queries": 10}),
    _sound("wav2vec2", "Wav2Vec2Model", "Wav2Vec2Config", SPEECH, "input_values", (1, 4000)),
    _sound("hubert", "HubertModel", "HubertConfig", SPEECH, "input_values", (1, 4000)),
    _sound("whisper_encoder", "WhisperEncoder", "WhisperConfig",
           {"d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": HEADS, "encoder_ffn_dim": INNER,
            "max_source_positions": 50, "num_mel_bins": 20}, "input_features", (1, 20, 100)),
    _sound("ast", "ASTModel", "ASTConfig", {**VISION, "max_length": 64, "num_mel_bins": 32}, "input_values",
           (1, 64, 32)),
]  # fmt: skip
