// Quantization's loops for AVX-512; called only after the CPU was asked.
#define STEM_QUANT_ISA kQuantAvx512
#define STEM_QUANT_ISA_NAME "avx512"
#include "kernels/quant_body.h"
