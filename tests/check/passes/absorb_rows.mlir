// What is computed in front of q, k and v, or behind the output, becomes a region; tables stay tensors.
// RUN: attir opt %s --passes='absorb-rows{fuse=always},dce' | filecheck %s
// RUN: attir opt %s --passes='absorb-rows{fuse=never}' | filecheck %s --check-prefix=NEVER
// RUN: attir opt %s --passes='absorb-rows{fuse=auto target=avx512}' | filecheck %s --check-prefix=AUTO

// Half of a row is rotated: the row's own element, its partner with a sign, and two tables.
// CHECK-LABEL: sym_name = "rope"
// CHECK-NOT: aten.
// CHECK: "attn.attention"(%q, %k, %v, %cos, %sin)
// CHECK: ^bb0(%[[B:.*]]: index, %[[H:.*]]: index, %[[M:.*]]: index, %[[D:.*]]: index, %[[Q:.*]]: tensor<1x2x8x4xf32>, %[[COS:.*]]: tensor<8x4xf32>, %[[SIN:.*]]: tensor<8x4xf32>):
// CHECK: "tensor.extract"(%[[Q]], %[[B]], %[[H]], %[[M]], %[[D]])
// CHECK: "tensor.extract"(%[[COS]], %[[M]], %[[D]])
// CHECK: %[[PARTNER:.*]] = "arith.select"
// CHECK: %[[X:.*]] = "tensor.extract"(%[[Q]], %[[B]], %[[H]], %[[M]], %[[PARTNER]])
// CHECK-NEXT: "arith.negf"(%[[X]])
// CHECK-NOT: "tensor.extract"(%[[Q]]
// CHECK: {rows = "query absorbed, as asked"}
// NEVER-LABEL: sym_name = "rope"
// NEVER: aten.cat
// NEVER-NOT: rows =
// AUTO-LABEL: sym_name = "rope"
// AUTO: {rows = "query absorbed: 5 operators take {{.*}}, 4 loads an element {{.*}} us"}
"func.func"() <{function_type = (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<1x2x9x4xf32>, tensor<8x4xf32>, tensor<8x4xf32>) -> tensor<1x2x8x4xf32>, sym_name = "rope"}> ({
^bb0(%q: tensor<1x2x8x4xf32>, %k: tensor<1x2x9x4xf32>, %v: tensor<1x2x9x4xf32>, %cos: tensor<8x4xf32>, %sin: tensor<8x4xf32>):
  %1 = "aten.mul.Tensor"(%q, %cos) <{args = ["self", "other"]}> : (tensor<1x2x8x4xf32>, tensor<8x4xf32>) -> tensor<1x2x8x4xf32>
  %2 = "aten.slice.Tensor"(%q) <{args = ["self"], dim = 3 : i64, end = 2 : i64, start = 0 : i64}> : (tensor<1x2x8x4xf32>) -> tensor<1x2x8x2xf32>
  %3 = "aten.slice.Tensor"(%q) <{args = ["self"], dim = 3 : i64, end = 9223372036854775807 : i64, start = 2 : i64}> : (tensor<1x2x8x4xf32>) -> tensor<1x2x8x2xf32>
  %4 = "aten.neg"(%3) <{args = ["self"]}> : (tensor<1x2x8x2xf32>) -> tensor<1x2x8x2xf32>
  %5 = "aten.cat"(%4, %2) <{args = ["tensors", "tensors"], dim = -1 : i64, tensors = [#aten.operand, #aten.operand]}> : (tensor<1x2x8x2xf32>, tensor<1x2x8x2xf32>) -> tensor<1x2x8x4xf32>
  %6 = "aten.mul.Tensor"(%5, %sin) <{args = ["self", "other"]}> : (tensor<1x2x8x4xf32>, tensor<8x4xf32>) -> tensor<1x2x8x4xf32>
  %7 = "aten.add.Tensor"(%1, %6) <{args = ["self", "other"]}> : (tensor<1x2x8x4xf32>, tensor<1x2x8x4xf32>) -> tensor<1x2x8x4xf32>
  %out, %lse = "attn.attention"(%7, %k, %v) ({}, {}) : (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<1x2x9x4xf32>) -> (tensor<1x2x8x4xf32>, tensor<1x2x8xf32>)
  "func.return"(%out) : (tensor<1x2x8x4xf32>) -> ()
}) : () -> ()

// A sum over the head dimension is a row sum, here of keys whose lengths nobody knows.
// CHECK-LABEL: sym_name = "norm"
// CHECK: ^bb0(%[[B:.*]]: index, %[[H:.*]]: index, %[[N:.*]]: index, %[[D:.*]]: index, %[[K:.*]]: tensor<
// CHECK: "attn.row_sum"() <{width = 4 : i64}> ({
// CHECK-NEXT: ^bb0(%[[C:.*]]: index):
// CHECK-NEXT: "tensor.extract"(%[[K]], %[[B]], %[[H]], %[[N]], %[[C]])
// CHECK: "math.rsqrt"
// CHECK: {rows = "key absorbed, as asked"}
"func.func"() <{function_type = (tensor<1x2x8x4xf32>, tensor<1x2x?x4xf32, #attir.sym<n>>) -> tensor<1x2x8x4xf32>, sym_name = "norm"}> ({
^bb0(%q: tensor<1x2x8x4xf32>, %k: tensor<1x2x?x4xf32, #attir.sym<n>>):
  %1 = "aten.pow.Tensor_Scalar"(%k) <{args = ["self"], exponent = 2 : i64}> : (tensor<1x2x?x4xf32, #attir.sym<n>>) -> tensor<1x2x?x4xf32, #attir.sym<n>>
  %2 = "aten.mean.dim"(%1) <{args = ["self"], dim = [-1 : i64], keepdim = true}> : (tensor<1x2x?x4xf32, #attir.sym<n>>) -> tensor<1x2x?x1xf32, #attir.sym<n>>
  %3 = "aten.rsqrt"(%2) <{args = ["self"]}> : (tensor<1x2x?x1xf32, #attir.sym<n>>) -> tensor<1x2x?x1xf32, #attir.sym<n>>
  %4 = "aten.mul.Tensor"(%k, %3) <{args = ["self", "other"]}> : (tensor<1x2x?x4xf32, #attir.sym<n>>, tensor<1x2x?x1xf32, #attir.sym<n>>) -> tensor<1x2x?x4xf32, #attir.sym<n>>
  %out, %lse = "attn.attention"(%q, %4, %k) ({}, {}) : (tensor<1x2x8x4xf32>, tensor<1x2x?x4xf32, #attir.sym<n>>, tensor<1x2x?x4xf32, #attir.sym<n>>) -> (tensor<1x2x8x4xf32>, tensor<1x2x8xf32>)
  "func.return"(%out) : (tensor<1x2x8x4xf32>) -> ()
}) : () -> ()

// A gate that lies as the merged heads do; the attention moves behind what the gate is made of.
// CHECK-LABEL: sym_name = "gate"
// CHECK: %[[SHIFTED:.*]] = "aten.linear"
// CHECK-NEXT: "attn.attention"(%q, %k, %k, %[[SHIFTED]])
// CHECK: ^bb0(%[[O:.*]]: f32, %[[B:.*]]: index, %[[H:.*]]: index, %[[M:.*]]: index, %[[E:.*]]: index, %[[GATE:.*]]: tensor<1x8x8xf32>):
// CHECK: "tensor.extract"(%[[GATE]], %{{.*}}, %[[M]], %{{.*}})
// CHECK: "math.exp"
// CHECK: "arith.mulf"(%[[O]],
// CHECK: {rows = "output absorbed, as asked"}
// CHECK-NOT: aten.mul
// CHECK: func.return
"func.func"() <{function_type = (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<1x8x8xf32>, tensor<8x8xf32>) -> tensor<1x8x8xf32>, sym_name = "gate"}> ({
^bb0(%q: tensor<1x2x8x4xf32>, %k: tensor<1x2x9x4xf32>, %x: tensor<1x8x8xf32>, %w: tensor<8x8xf32>):
  %out, %lse = "attn.attention"(%q, %k, %k) ({}, {}) : (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<1x2x9x4xf32>) -> (tensor<1x2x8x4xf32>, tensor<1x2x8xf32>)
  %1 = "aten.transpose.int"(%out) <{args = ["self"], dim0 = 1 : i64, dim1 = 2 : i64}> : (tensor<1x2x8x4xf32>) -> tensor<1x8x2x4xf32>
  %2 = "aten.reshape"(%1) <{args = ["self"], shape = [1 : i64, 8 : i64, 8 : i64]}> : (tensor<1x8x2x4xf32>) -> tensor<1x8x8xf32>
  %3 = "aten.linear"(%x, %w) <{args = ["input", "weight"]}> : (tensor<1x8x8xf32>, tensor<8x8xf32>) -> tensor<1x8x8xf32>
  %4 = "aten.sigmoid"(%3) <{args = ["self"]}> : (tensor<1x8x8xf32>) -> tensor<1x8x8xf32>
  %5 = "aten.mul.Tensor"(%2, %4) <{args = ["self", "other"]}> : (tensor<1x8x8xf32>, tensor<1x8x8xf32>) -> tensor<1x8x8xf32>
  "func.return"(%5) : (tensor<1x8x8xf32>) -> ()
}) : () -> ()

// What is returned too exists anyway.
// CHECK-LABEL: sym_name = "cached"
// CHECK: aten.mul
// CHECK: {rows = "key stays outside: what it is computed to is needed elsewhere too"}
"func.func"() <{function_type = (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<4xf32>) -> (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>), sym_name = "cached"}> ({
^bb0(%q: tensor<1x2x8x4xf32>, %k: tensor<1x2x9x4xf32>, %w: tensor<4xf32>):
  %1 = "aten.mul.Tensor"(%k, %w) <{args = ["self", "other"]}> : (tensor<1x2x9x4xf32>, tensor<4xf32>) -> tensor<1x2x9x4xf32>
  %out, %lse = "attn.attention"(%q, %1, %k) ({}, {}) : (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>, tensor<1x2x9x4xf32>) -> (tensor<1x2x8x4xf32>, tensor<1x2x8xf32>)
  "func.return"(%out, %1) : (tensor<1x2x8x4xf32>, tensor<1x2x9x4xf32>) -> ()
}) : () -> ()
