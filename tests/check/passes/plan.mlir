// RUN: attir opt %s --passes=plan | filecheck %s --check-prefix=HOPPER
// RUN: attir opt %s --passes=plan{target=interpret} | filecheck %s --check-prefix=INTERPRET

"builtin.module"() ({
// Half precision at the width of most models: tiles from the good set for Hopper.
// HOPPER-LABEL: sym_name = "half"
// HOPPER: schedule = {block_m = 128 : i64, block_n = 128 : i64, num_stages = 2 : i64, num_warps = 8 : i64, precision = "ieee",
// HOPPER-SAME: target = "sm_90"}
// INTERPRET-LABEL: sym_name = "half"
// INTERPRET: schedule = {block_m = 64 : i64, block_n = 64 : i64, num_stages = 1 : i64, num_warps = 4 : i64, precision = "ieee",
// INTERPRET-SAME: target = "interpret"}
  "func.func"() <{function_type = (tensor<?x?x?x128xf16, #attir.sym<B, H, M>>, tensor<?x?x?x128xf16, #attir.sym<B, K, N>>, tensor<?x?x?x128xf16, #attir.sym<B, K, N>>) -> tensor<?x?x?x128xf16, #attir.sym<B, H, M>>, sym_name = "half"}> ({
  ^bb0(%q: tensor<?x?x?x128xf16, #attir.sym<B, H, M>>, %k: tensor<?x?x?x128xf16, #attir.sym<B, K, N>>, %v: tensor<?x?x?x128xf16, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    }) : (tensor<?x?x?x128xf16, #attir.sym<B, H, M>>, tensor<?x?x?x128xf16, #attir.sym<B, K, N>>, tensor<?x?x?x128xf16, #attir.sym<B, K, N>>) -> (tensor<?x?x?x128xf16, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x128xf16, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()

// Exact dots of f32 do not run on tensor cores: small tiles.
// HOPPER-LABEL: sym_name = "full"
// HOPPER: schedule = {block_m = {{16|32}} : i64, block_n = {{16|32}} : i64,
  "func.func"() <{function_type = (tensor<?x?x?x128xf32, #attir.sym<B, H, M>>, tensor<?x?x?x128xf32, #attir.sym<B, K, N>>, tensor<?x?x?x128xf32, #attir.sym<B, K, N>>) -> tensor<?x?x?x128xf32, #attir.sym<B, H, M>>, sym_name = "full"}> ({
  ^bb0(%q: tensor<?x?x?x128xf32, #attir.sym<B, H, M>>, %k: tensor<?x?x?x128xf32, #attir.sym<B, K, N>>, %v: tensor<?x?x?x128xf32, #attir.sym<B, K, N>>):
    %0, %1 = "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 2.5e-01 : f32}> ({
    }, {
    }) : (tensor<?x?x?x128xf32, #attir.sym<B, H, M>>, tensor<?x?x?x128xf32, #attir.sym<B, K, N>>, tensor<?x?x?x128xf32, #attir.sym<B, K, N>>) -> (tensor<?x?x?x128xf32, #attir.sym<B, H, M>>, tensor<?x?x?xf32, #attir.sym<B, H, M>>)
    "func.return"(%0) : (tensor<?x?x?x128xf32, #attir.sym<B, H, M>>) -> ()
  }) : () -> ()
}) : () -> ()
