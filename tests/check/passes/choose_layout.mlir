// Attention writes its result with the heads behind the positions where that is how it is read.
// RUN: attir opt %s --passes=raise-attention,dce,canonicalize,choose-layout | filecheck %s

// CHECK-LABEL: sym_name = "joined"
// CHECK: "attn.attention"
// CHECK: }) {positions_first} : (tensor<2x4x8x64xf16>
"func.func"() <{function_type = (tensor<2x4x8x64xf16>) -> tensor<2x8x256xf16>, sym_name = "joined"}> ({
^bb0(%q: tensor<2x4x8x64xf16>):
  %o = "aten.scaled_dot_product_attention"(%q, %q, %q) <{args = ["query", "key", "value"]}> : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>
  %t = "aten.transpose.int"(%o) <{args = ["self"], dim0 = 1 : i64, dim1 = 2 : i64}> : (tensor<2x4x8x64xf16>) -> tensor<2x8x4x64xf16>
  %r = "aten.reshape"(%t) <{args = ["self"], shape = [2 : i64, 8 : i64, 256 : i64]}> : (tensor<2x8x4x64xf16>) -> tensor<2x8x256xf16>
  "func.return"(%r) : (tensor<2x8x256xf16>) -> ()
}) : () -> ()

// Heads that were flattened and split again make no difference.
// CHECK-LABEL: sym_name = "flattened"
// CHECK: }) {positions_first} : (tensor<2x4x8x64xf16>
// CHECK-NOT: aten.flatten
// CHECK: func.return
"func.func"() <{function_type = (tensor<8x8x64xf16>) -> tensor<2x8x4x64xf16>, sym_name = "flattened"}> ({
^bb0(%q: tensor<8x8x64xf16>):
  %q4 = "aten.view"(%q) <{args = ["self"], size = [2 : i64, 4 : i64, 8 : i64, 64 : i64]}> : (tensor<8x8x64xf16>) -> tensor<2x4x8x64xf16>
  %o = "aten.scaled_dot_product_attention"(%q4, %q4, %q4) <{args = ["query", "key", "value"]}> : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>
  %f = "aten.view"(%o) <{args = ["self"], size = [8 : i64, 8 : i64, 64 : i64]}> : (tensor<2x4x8x64xf16>) -> tensor<8x8x64xf16>
  %s = "aten.view"(%f) <{args = ["self"], size = [2 : i64, 4 : i64, 8 : i64, 64 : i64]}> : (tensor<8x8x64xf16>) -> tensor<2x4x8x64xf16>
  %t = "aten.transpose.int"(%s) <{args = ["self"], dim0 = 1 : i64, dim1 = 2 : i64}> : (tensor<2x4x8x64xf16>) -> tensor<2x8x4x64xf16>
  "func.return"(%t) : (tensor<2x8x4x64xf16>) -> ()
}) : () -> ()

// A result that is read as it is lies as it is.
// CHECK-LABEL: sym_name = "returned"
// CHECK: }) : (tensor<2x4x8x64xf16>
"func.func"() <{function_type = (tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>, sym_name = "returned"}> ({
^bb0(%q: tensor<2x4x8x64xf16>):
  %o = "aten.scaled_dot_product_attention"(%q, %q, %q) <{args = ["query", "key", "value"]}> : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>) -> tensor<2x4x8x64xf16>
  "func.return"(%o) : (tensor<2x4x8x64xf16>) -> ()
}) : () -> ()
