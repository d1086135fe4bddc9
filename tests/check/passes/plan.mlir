// RUN: attir opt %s --passes=plan | filecheck %s --check-prefix=HOPPER
// RUN: attir opt %s --passes=plan{target=interpret} | filecheck %s --check-prefix=INTERPRET
// RUN: attir opt %s --passes=plan{target=avx512} | filecheck %s --check-prefix=CPU
// RUN: attir opt %s --passes="plan{target=avx512 rows=6}" | filecheck %s --check-prefix=ROWS
// RUN: attir opt %s --passes="plan{rows=6}" | filecheck %s --check-prefix=GPU-ROWS
// RUN: attir opt %s --passes="plan{wishes=descriptors=host}" | filecheck %s --check-prefix=WISHES
// RUN: not attir opt %s --passes="plan{wishes=speed=9}" 2>&1 | filecheck %s --check-prefix=UNKNOWN
// RUN: not attir opt %s --passes="plan{target=sm_80 wishes=descriptors=host}" 2>&1 | filecheck %s --check-prefix=POINTERS
// RUN: not attir opt %s --passes="plan{target=avx2 wishes=swap=1}" 2>&1 | filecheck %s --check-prefix=CPU-WISH
// RUN: not attir opt %s --passes="plan{target=avx2 rows=-1}" 2>&1 | filecheck %s --check-prefix=NEGATIVE
// UNKNOWN: error: a kernel for a GPU has no option 'speed'; expected block_m, block_n,
// POINTERS: cannot be loaded through tensor descriptors: sm_80 has no unit that copies tiles
// CPU-WISH: error: a kernel for a CPU has no option 'swap'; expected block_m, block_n, columns, edge_n, lists, split, folded
// NEGATIVE: error: rows must not be negative, but there are -1

"builtin.module"() ({
// Half precision at the width of most models: tiles from the good set for Hopper.
// HOPPER-LABEL: sym_name = "half"
// HOPPER: schedule = {block_m = 128 : i64, block_n = 128 : i64, descriptors = "device", num_stages = 2 : i64, num_warps = 8 : i64, precision = "ieee",
// HOPPER-SAME: target = "sm_90"}
// Few rows make low tiles, whose programs share the keys out among them.
// GPU-ROWS-LABEL: sym_name = "half"
// GPU-ROWS: schedule = {block_m = 16 : i64, block_n = 64 : i64, descriptors = "host",
// GPU-ROWS-SAME: split = 1 : i64, target = "sm_90"}
// WISHES-LABEL: sym_name = "half"
// WISHES: schedule = {block_m = 128 : i64, block_n = 128 : i64, descriptors = "host",
// INTERPRET-LABEL: sym_name = "half"
// INTERPRET: schedule = {block_m = 64 : i64, block_n = 64 : i64, num_stages = 1 : i64, num_warps = 4 : i64, precision = "ieee",
// INTERPRET-SAME: target = "interpret"}
// On a CPU tiles are vectors of rows, whose cut tiles are short; few rows are folded with the heads of their group.
// CPU-LABEL: sym_name = "half"
// CPU: schedule = {block_m = {{[0-9]+}} : i64, block_n = {{[0-9]+}} : i64, columns = {{[248]}} : i64, edge_n = 16 : i64, folded = 0 : i64, lanes = 16 : i64,
// CPU-SAME: split = 0 : i64, target = "avx512"}
// ROWS-LABEL: sym_name = "half"
// ROWS: schedule = {block_m = 8 : i64, block_n = {{[0-9]+}} : i64, columns = 2 : i64, edge_n = 16 : i64, folded = 1 : i64, lanes = 16 : i64,
// ROWS-SAME: target = "avx512"}
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
