// Quantization's loops for every machine of the architecture.
#define STEM_QUANT_ISA kQuantBaseline
#define STEM_QUANT_ISA_NAME "baseline"
#include "kernels/quant_body.h"
