from __future__ import annotations

import pytest

from lenet.gate.why.names import copy_name, kernel_name, operator_name

CLAMP = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::(anonymous namespace)::launch_clamp_scalar"
    "(at::TensorIteratorBase&)::{lambda()#1}, std::array<char*, 2ul> >(int)"
)
SHORT = {
    "at::cuda::(anonymous namespace)::spin_kernel(long)": "spin_kernel",
    "void implicit_convolve_sgemm<float, float, 1024, 5>(int, float const*)": "implicit_convolve_sgemm",
    "void cutlass::Kernel2<cutlass_80_simt_sgemm_64x64_8x5_tn>(int)": "Kernel2<cutlass_80_simt_sgemm_64x64_8x5_tn>",
    CLAMP: "vectorized_elementwise_kernel<launch_clamp_scalar>",
    "triton_poi_fused_convolution_relu_12": "triton_poi_fused_convolution_relu",
    "triton_poi_fused_max_pool2d_with_indices_relu_0d1d2de": "triton_poi_fused_max_pool2d_with_indices_relu",
    "lenet_split_4f3a9b21c7": "lenet_split",
    f"sm80_xmma_{80 * 'x'}": f"sm80_xmma_{47 * 'x'}...",
    "": "a kernel without a name",
}


@pytest.mark.parametrize("name", SHORT)
def test_kernels(name: str) -> None:
    assert kernel_name(name) == SHORT[name]


def test_kernels_of_two_builds_share_a_name_and_those_of_other_tiles_do_not() -> None:
    assert kernel_name("triton_tem_fused_mm_3") == kernel_name("triton_tem_fused_mm_7")
    assert kernel_name("gemm_0123abcd45_nt") == kernel_name("gemm_fedc987650_nt")
    assert kernel_name("sgemm_32x32x32_NN") != kernel_name("sgemm_64x32x32_NN")


def test_operators_and_copies() -> None:
    assert operator_name("aten::mkldnn_convolution") == "mkldnn_convolution"
    graphs = {f"## Call CompiledFxGraph {letters} ##" for letters in ("fb3xqk4iu", "fz7qpaln2")}
    assert {operator_name(name) for name in graphs} == {"generated code"}
    assert operator_name("Torch-Compiled Region: 0/1") == "Torch-Compiled Region"
    assert copy_name("Memcpy HtoD (Pageable -> Device)") == "the copy to the GPU"
    assert copy_name("Memcpy DtoH (Device -> Pinned)") == "the copy from the GPU"
