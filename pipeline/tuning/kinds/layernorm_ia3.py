"""`tuning: layernorm_ia3`: the LayerNorms and the factors of (IA)^3, together."""

from pipeline.tuning.composed import compose
from pipeline.tuning.kinds import ia3, layernorm

KIND = compose(
    "Each task tunes the LayerNorms of the frozen backbone, and factors for keys, values and hidden units ((IA)^3).",
    layernorm=layernorm.KIND,
    ia3=ia3.KIND,
)
