// RUN: attir opt %s | filecheck %s
// RUN: attir opt %s --passes=cse,dce | filecheck %s

// Tensors in few bits, and what is done to them before, are read and written as they are.
// CHECK: %out, %mean = "attn.subtract_mean"(%x) : (tensor<1x2x?x20xf16, #attir.sym<N>>) -> (tensor<1x2x?x20xf16, #attir.sym<N>>, tensor<1x2x1x20xf32>)
// CHECK: %p = "attn.project"(%out, %basis) <{group = 2 : i64}>
// CHECK: %r = "attn.project"(%p, %basis) <{group = 2 : i64, transposed}>
// CHECK: %codes, %scale, %zero = "attn.quantize"(%r) <{storage = {bits = 3 : i64, channels = 7 : i64, tokens = 16 : i64, width = 20 : i64, zero = true}}>
// CHECK-SAME: -> (tensor<1x2x?x8xi8, #attir.sym<N>>, tensor<1x2x?x3xf16, #attir.sym<G>>, tensor<1x2x?x3xf16, #attir.sym<G>>)
"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x?x20xf16, #attir.sym<N>>, tensor<1x1x20x4xf32>) -> (tensor<1x2x?x8xi8, #attir.sym<N>>, tensor<1x2x?x3xf16, #attir.sym<G>>, tensor<1x2x?x3xf16, #attir.sym<G>>)}> ({
  ^bb0(%x: tensor<1x2x?x20xf16, #attir.sym<N>>, %basis: tensor<1x1x20x4xf32>):
    %out, %mean = "attn.subtract_mean"(%x) : (tensor<1x2x?x20xf16, #attir.sym<N>>) -> (tensor<1x2x?x20xf16, #attir.sym<N>>, tensor<1x2x1x20xf32>)
    %p = "attn.project"(%out, %basis) <{group = 2 : i64}> : (tensor<1x2x?x20xf16, #attir.sym<N>>, tensor<1x1x20x4xf32>) -> tensor<1x2x?x4xf16, #attir.sym<N>>
    %r = "attn.project"(%p, %basis) <{group = 2 : i64, transposed}> : (tensor<1x2x?x4xf16, #attir.sym<N>>, tensor<1x1x20x4xf32>) -> tensor<1x2x?x20xf16, #attir.sym<N>>
    %codes, %scale, %zero = "attn.quantize"(%r) <{storage = {bits = 3 : i64, zero = true, tokens = 16 : i64, channels = 7 : i64, width = 20 : i64}}> : (tensor<1x2x?x20xf16, #attir.sym<N>>) -> (tensor<1x2x?x8xi8, #attir.sym<N>>, tensor<1x2x?x3xf16, #attir.sym<G>>, tensor<1x2x?x3xf16, #attir.sym<G>>)
    "func.return"(%codes, %scale, %zero) : (tensor<1x2x?x8xi8, #attir.sym<N>>, tensor<1x2x?x3xf16, #attir.sym<G>>, tensor<1x2x?x3xf16, #attir.sym<G>>) -> ()
  }) : () -> ()
}) : () -> ()
