// Quantization's loops for AVX2; called only after the CPU was asked.
#define STEM_QUANT_ISA kQuantAvx2
#define STEM_QUANT_ISA_NAME "avx2"
#include "kernels/quant_body.h"
