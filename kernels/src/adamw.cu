// One AdamW step over a flat buffer. `reference` in adamw.rs defines it.
//
// Every operation is the explicitly rounded intrinsic, so the compiler may not contract
// a product and a sum: the result is meant to be the reference's, bit for bit.
//
// Launch: any one-dimensional grid; threads stride over the elements. Element i is read
// and written by one thread only, so the buffers need no order between threads.

extern "C" __global__ void adamw(float *__restrict__ param,
                                 const float *__restrict__ grad,
                                 float *__restrict__ first,
                                 float *__restrict__ second,
                                 unsigned long long length,
                                 unsigned long long decayed,
                                 float grad_scale,
                                 float beta1, float one_minus_beta1,
                                 float beta2, float one_minus_beta2,
                                 float root_correction, float epsilon,
                                 float step_size, float shrink) {
  unsigned long long stride = (unsigned long long)gridDim.x * blockDim.x;
  unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (; i < length; i += stride) {
    float g = __fmul_rn(grad[i], grad_scale);
    float m = __fadd_rn(__fmul_rn(beta1, first[i]), __fmul_rn(one_minus_beta1, g));
    float v = __fadd_rn(__fmul_rn(beta2, second[i]),
                        __fmul_rn(one_minus_beta2, __fmul_rn(g, g)));
    float root = __fadd_rn(__fmul_rn(__fsqrt_rn(v), root_correction), epsilon);
    float kept = i < decayed ? __fmul_rn(param[i], shrink) : param[i];
    first[i] = m;
    second[i] = v;
    param[i] = __fsub_rn(kept, __fmul_rn(step_size, __fdiv_rn(m, root)));
  }
}
