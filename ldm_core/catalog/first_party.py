"""First-party parts and the distribution of each, for the answer when one is not installed."""

from __future__ import annotations

FIRST_PARTY: dict[tuple[str, str], str] = {
    **{("first_stage", n): "ldm-plugin-kl-ae" for n in ("kl_ae", "kl_f2", "kl_f4", "kl_f8", "kl_f16", "kl_f32")},
    **{
        ("first_stage", n): "ldm-plugin-vq-ae"
        for n in ("vq_ae", "vq_f2", "vq_f4", "vq_f4_noattn", "vq_f8", "vq_f8_n256", "vq_f16", "vq_f32")
    },
    **{("conditioner", n): "ldm-plugin-bert-text" for n in ("text", "text_small")},
    **{("conditioner", n): "ldm-plugin-clip-text" for n in ("clip_text", "clip_text_sd1", "clip_text_sd2")},
    **{("conditioner", n): "ldm-plugin-class-label" for n in ("class_label", "class_imagenet", "class_imagenet_f8")},
    **{("conditioner", n): "ldm-plugin-semantic-map" for n in ("semantic_map", "semantic_map_landscapes")},
    **{("conditioner", n): "ldm-plugin-embedding" for n in ("embedding", "embedding_rdm")},
    ("stage_objective", "adversarial"): "ldm-plugin-adversarial",
    ("sampler", "ddim"): "ldm-plugin-ddim",
    **{
        ("sampler", n): "ldm-plugin-samplers"
        for n in ("plms", "euler", "euler_ancestral", "heun", "dpm_solver_pp_2m", "dpm_solver_pp_2m_sde", "unipc")
    },
    **{("time_grid", n): "ldm-plugin-samplers" for n in ("karras", "log_snr", "shifted", "quad")},
    ("guidance", "cfg"): "ldm-plugin-cfg",
    ("codec", "diffusers"): "ldm-plugin-diffusers",
    ("guidance", "autoguidance"): "ldm-plugin-autoguidance",
    **{
        ("guidance", n): "ldm-plugin-image-guiding"
        for n in ("blend", "classifier_target", "known_pixels_target", "low_resolution_target", "perceptual_target")
    },
    ("sampler", "repaint"): "ldm-plugin-image-guiding",
    ("conditioner", "bbox_layout"): "ldm-plugin-bbox",
    ("conditioner", "low_resolution"): "ldm-plugin-low-resolution",
    ("conditioner", "masked_image"): "ldm-plugin-masked-image",
    ("codec", "compvis"): "ldm-plugin-compvis",
    **{("degradation", n): "ldm-plugin-degradations" for n in ("bicubic", "bsr", "bsr_light", "grey")},
    **{("degradation", n): "ldm-plugin-degradations" for n in ("boxes", "half", "mask_mixture", "outpainting")},
    **{("degradation", f"irregular{n}"): "ldm-plugin-degradations" for n in ("", "_medium", "_thick", "_thin")},
    **{
        ("metric", n): "ldm-plugin-metrics"
        for n in (
            *("bound", "box_score", "class_accuracy", "cmmd", "codebook_use", "density_coverage", "fd", "fd_dinov2"),
            *("fid", "inception_score", "kid", "label_map_iou", "lpips", "nearest", "precision_recall", "psnr", "rfd"),
            *("rfid", "ssim", "text_score"),
        )
    },
    **{("command", n): "ldm-plugin-metrics" for n in ("compare", "evaluate")},
    **{("command", n): "ldm-plugin-study" for n in ("bench", "study", "tune")},
    ("command", "data"): "ldm-plugin-datasheet",
    ("command", "serve"): "ldm-plugin-serve",
    **{("command", n): "ldm-plugin-report" for n in ("report", "watch")},
    ("observer", "report"): "ldm-plugin-report",
    ("command", "decoder"): "ldm-plugin-tiny-decoder",
    ("decoder", "tiny"): "ldm-plugin-tiny-decoder",
    ("first_stage", "tiny_decoder"): "ldm-plugin-tiny-decoder",
    ("stage_objective", "decoder_pixels"): "ldm-plugin-tiny-decoder",
    ("adapter", "multidiffusion"): "ldm-plugin-multidiffusion",
    **{("objective", n): "ldm-plugin-distill" for n in ("consistency", "progressive", "adversarial")},
    **{(kind, "lcm"): "ldm-plugin-distill" for kind in ("sampler", "time_grid")},
    ("command", "distil"): "ldm-plugin-distill",
    **{("adapter", n): "ldm-plugin-distill" for n in ("low_rank", "scale_input")},
    ("guidance", "embedded"): "ldm-plugin-distill",
    **{("adapter", n): "ldm-plugin-feature-cache" for n in ("deep_cache", "first_block_cache")},
    ("runtime", "openvino"): "ldm-plugin-openvino",
    ("codec", "onnx"): "ldm-plugin-onnx",
    ("dataset", "idx"): "ldm-plugin-idx",
    ("dataset", "parquet"): "ldm-plugin-parquet",
    ("command", "push"): "ldm-plugin-hub",
    **{("first_stage", n): "ldm-plugin-wavelet" for n in ("haar", "haar_f2", "haar_f4")},
    **{("annotation", n): "ldm-plugin-annotations" for n in ("coco", "openimages", "voc", "yolo")},
    ("observer", "curves"): "ldm-plugin-curves",
    ("observer", "tensorboard"): "ldm-plugin-tensorboard",
    ("observer", "wandb"): "ldm-plugin-wandb",
}
"""Names of first-party parts and the distribution of each, for the answer when one is not installed."""
