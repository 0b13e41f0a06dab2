"""`tuning: layernorm_lora`: the LayerNorms, and a product of two thin matrices beside the frozen weights."""

from pipeline.tuning.composed import compose
from pipeline.tuning.kinds import layernorm, lora

KIND = compose(
    "Each task tunes the LayerNorms of the frozen backbone, and a product of two thin matrices beside its weights.",
    layernorm=layernorm.KIND,
    lora=lora.KIND,
)
