// What the planner chose, what it predicted, and which candidates came next, as attributes.
// RUN: attir opt %s --passes=plan{target=sm_90} | filecheck %s --check-prefix=GPU
// RUN: attir opt %s --passes="plan{target=avx512 sizes=1x2x2x512x512}" | filecheck %s --check-prefix=CPU
// RUN: attir opt %s --passes="plan{target=avx512},plan{target=interpret}" | filecheck %s --check-prefix=NONE
// RUN: not attir opt %s --passes="plan{sizes=4x4}" 2>&1 | filecheck %s --check-prefix=SIZES
// GPU: decision = {analytical_us =
// GPU-SAME: runner_up_1 = "
// GPU-SAME: runner_up_1_us =
// GPU-SAME: runner_up_2_us =
// GPU-SAME: sizes = "4x32x32x4096x4096", source = "analytical"
// CPU: decision = {analytical_us =
// CPU-SAME: sizes = "1x2x2x512x512", source = "analytical + learned", spread =
// NONE-NOT: decision =
// NONE: schedule =
// SIZES: error: sizes must be BATCHxHEADSxKEY_HEADSxQUERIESxKEYS, such as 1x32x8x1x4096, but are '4x4'
"builtin.module"() ({
  "func.func"() <{function_type = (tensor<?x?x?x64xf16, #attir.sym<B, H, M>>, tensor<?x?x?x64xf16, #attir.sym<B, H, N>>, tensor<?x?x?x64xf16, #attir.sym<B, H, N>>) -> tensor<?x?x?x64xf16, #attir.sym<B, H, M>>, sym_name = "dense"}> ({
  ^bb0(%q: tensor<?x?x?x64xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x64xf16, #attir.sym<B, H, N>>, %v: tensor<?x?x?x64xf16, #attir.sym<B, H, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 1.25e-01 : f32}> ({
    }, {
    }) : (tensor<?x?x?x64xf16, #attir.sym<B, H, M>>, tensor<?x?x?x64xf16, #attir.sym<B, H, N>>, tensor<?x?x?x64xf16, #attir.sym<B, H, N>>) -> (tensor<?x?x?x64xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x64xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
