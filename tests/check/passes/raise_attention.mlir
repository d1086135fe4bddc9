// Attention is one operation, whatever was written; what is no attention stays.
// RUN: attir opt %s --passes=raise-attention,dce | filecheck %s
// RUN: attir opt %s --passes=raise-attention --debug-patterns 2>&1 | filecheck %s --check-prefix=WHY

// matmul, scale, softmax, matmul
// CHECK-LABEL: sym_name = "by_hand"
// CHECK-NOT: aten.softmax
// CHECK: "attn.attention"(%q, %k, %v) <{group = 1 : i64, scale = 1.25e-01 : f32}>
// CHECK-NEXT: }, {
// CHECK-NEXT: }) : (tensor<2x4x8x64xf16>
"func.func"() <{function_type = (tensor<2x4x8x64xf16>, tensor<2x4x9x64xf16>, tensor<2x4x9x64xf16>) -> tensor<2x4x8x64xf16>, sym_name = "by_hand"}> ({
^bb0(%q: tensor<2x4x8x64xf16>, %k: tensor<2x4x9x64xf16>, %v: tensor<2x4x9x64xf16>):
  %kt = "aten.transpose.int"(%k) <{args = ["self"], dim0 = 2 : i64, dim1 = 3 : i64}> : (tensor<2x4x9x64xf16>) -> tensor<2x4x64x9xf16>
  %qk = "aten.matmul"(%q, %kt) <{args = ["self", "other"]}> : (tensor<2x4x8x64xf16>, tensor<2x4x64x9xf16>) -> tensor<2x4x8x9xf16>
  %s = "aten.mul.Tensor"(%qk) <{args = ["self"], other = 1.25e-01 : f64}> : (tensor<2x4x8x9xf16>) -> tensor<2x4x8x9xf16>
  %p = "aten.softmax.int"(%s) <{args = ["self"], dim = -1 : i64}> : (tensor<2x4x8x9xf16>) -> tensor<2x4x8x9xf16>
  %o = "aten.matmul"(%p, %v) <{args = ["self", "other"]}> : (tensor<2x4x8x9xf16>, tensor<2x4x9x64xf16>) -> tensor<2x4x8x64xf16>
  "func.return"(%o) : (tensor<2x4x8x64xf16>) -> ()
}) : () -> ()

// is_causal and enable_gqa become a mask region and the head grouping.
// CHECK-LABEL: sym_name = "causal"
// CHECK: "attn.attention"(%q, %k, %k) <{group = 2 : i64
// CHECK: ^bb0(%[[B:.*]]: index, %[[H:.*]]: index, %[[M:.*]]: index, %[[N:.*]]: index):
// CHECK-NEXT: %[[C:.*]] = "arith.cmpi"(%[[N]], %[[M]]) <{predicate = 3 : i64}>
// CHECK-NEXT: "attn.yield"(%[[C]])
"func.func"() <{function_type = (tensor<2x4x?x64xf16, #attir.sym<s0>>, tensor<2x2x?x64xf16, #attir.sym<s0>>) -> tensor<2x4x?x64xf16, #attir.sym<s0>>, sym_name = "causal"}> ({
^bb0(%q: tensor<2x4x?x64xf16, #attir.sym<s0>>, %k: tensor<2x2x?x64xf16, #attir.sym<s0>>):
  %o = "aten.scaled_dot_product_attention"(%q, %k, %k) <{args = ["query", "key", "value"], enable_gqa = true, is_causal = true}> : (tensor<2x4x?x64xf16, #attir.sym<s0>>, tensor<2x2x?x64xf16, #attir.sym<s0>>, tensor<2x2x?x64xf16, #attir.sym<s0>>) -> tensor<2x4x?x64xf16, #attir.sym<s0>>
  "func.return"(%o) : (tensor<2x4x?x64xf16, #attir.sym<s0>>) -> ()
}) : () -> ()

// A padding mask is captured small and read at (b, n).
// CHECK-LABEL: sym_name = "padding"
// CHECK: "attn.attention"(%q, %q, %q, %keep)
// CHECK: ^bb0(%[[B:.*]]: index, %{{.*}}: index, %{{.*}}: index, %[[N:.*]]: index, %[[KEEP:.*]]: tensor<2x8xi1>):
// CHECK-NEXT: "tensor.extract"(%[[KEEP]], %[[B]], %[[N]])
"func.func"() <{function_type = (tensor<2x4x8x64xf16>, tensor<2x8xi1>) -> tensor<2x4x8x64xf16>, sym_name = "padding"}> ({
^bb0(%q: tensor<2x4x8x64xf16>, %keep: tensor<2x8xi1>):
  %wide = "aten.view"(%keep) <{args = ["self"], size = [2 : i64, 1 : i64, 1 : i64, 8 : i64]}> : (tensor<2x8xi1>) -> tensor<2x1x1x8xi1>
  %o = "aten.scaled_dot_product_attention"(%q, %q, %q, %wide) <{args = ["query", "key", "value", "attn_mask"]}> : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x1x1x8xi1>) -> tensor<2x4x8x64xf16>
  "func.return"(%o) : (tensor<2x4x8x64xf16>) -> ()
}) : () -> ()

// Dropout at work is refused, and says so.
// CHECK-LABEL: sym_name = "dropout"
// CHECK: aten.scaled_dot_product_attention
// WHY: dropout of 0.1
"func.func"() <{function_type = (tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>, sym_name = "dropout"}> ({
^bb0(%q: tensor<2x4x8x64xf16>):
  %o = "aten.scaled_dot_product_attention"(%q, %q, %q) <{args = ["query", "key", "value"], dropout_p = 1.0e-01 : f64}> : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>
  "func.return"(%o) : (tensor<2x4x8x64xf16>) -> ()
}) : () -> ()

// Weights that are returned must exist.
// CHECK-LABEL: sym_name = "weights"
// CHECK: aten.softmax.int
// WHY: the attention weights
"func.func"() <{function_type = (tensor<2x8x64xf16>) -> (tensor<2x8x64xf16>, tensor<2x8x8xf16>), sym_name = "weights"}> ({
^bb0(%q: tensor<2x8x64xf16>):
  %kt = "aten.transpose.int"(%q) <{args = ["self"], dim0 = 1 : i64, dim1 = 2 : i64}> : (tensor<2x8x64xf16>) -> tensor<2x64x8xf16>
  %s = "aten.bmm"(%q, %kt) <{args = ["self", "mat2"]}> : (tensor<2x8x64xf16>, tensor<2x64x8xf16>) -> tensor<2x8x8xf16>
  %p = "aten.softmax.int"(%s) <{args = ["self"], dim = -1 : i64}> : (tensor<2x8x8xf16>) -> tensor<2x8x8xf16>
  %o = "aten.bmm"(%p, %q) <{args = ["self", "mat2"]}> : (tensor<2x8x8xf16>, tensor<2x8x64xf16>) -> tensor<2x8x64xf16>
  "func.return"(%o, %p) : (tensor<2x8x64xf16>, tensor<2x8x8xf16>) -> ()
}) : () -> ()
