// Rewrites of captured graphs that leave every value as it is.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// Checks of metadata say what types say, inactive dropout and unit factors do nothing.
// CHECK-LABEL: sym_name = "noise"
// CHECK-NEXT: ^bb0
// CHECK-NEXT: %[[Y:.*]] = "aten.exp"(%x)
// CHECK-NEXT: "func.return"(%[[Y]])
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf32>, sym_name = "noise"}> ({
^bb0(%x: tensor<4xf32>):
  "aten._assert_tensor_metadata"(%x) <{args = ["a"], dtype = f32}> : (tensor<4xf32>) -> ()
  %0 = "aten.dropout"(%x) <{args = ["input"], p = 1.0e-01 : f64, train = false}> : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "aten.mul.Tensor"(%0) <{args = ["self"], other = 1.0 : f64}> : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "aten._to_copy"(%1) <{args = ["self"], dtype = f32}> : (tensor<4xf32>) -> tensor<4xf32>
  %3 = "aten.expand"(%2) <{args = ["self"], size = [4 : i64]}> : (tensor<4xf32>) -> tensor<4xf32>
  %4 = "aten.exp"(%3) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  "func.return"(%4) : (tensor<4xf32>) -> ()
}) : () -> ()

// Dropout at work, casts and factors that change something stay.
// CHECK-LABEL: sym_name = "at_work"
// CHECK: aten.dropout
// CHECK: aten.mul.Tensor
// CHECK: aten._to_copy
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf16>, sym_name = "at_work"}> ({
^bb0(%x: tensor<4xf32>):
  %0 = "aten.dropout"(%x) <{args = ["input"], p = 1.0e-01 : f64, train = true}> : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "aten.mul.Tensor"(%0) <{args = ["self"], other = 2.0 : f64}> : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "aten._to_copy"(%1) <{args = ["self"], dtype = f16}> : (tensor<4xf32>) -> tensor<4xf16>
  "func.return"(%2) : (tensor<4xf16>) -> ()
}) : () -> ()

// What leaves the graph must not become an alias of what came in.
// CHECK-LABEL: sym_name = "returned"
// CHECK: aten.dropout
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf32>, sym_name = "returned"}> ({
^bb0(%x: tensor<4xf32>):
  %0 = "aten.dropout"(%x) <{args = ["input"], p = 0.0 : f64, train = false}> : (tensor<4xf32>) -> tensor<4xf32>
  "func.return"(%0) : (tensor<4xf32>) -> ()
}) : () -> ()
