// Equal pure operations become one; what may differ from call to call stays.
// RUN: attir opt %s --passes=cse | filecheck %s

// CHECK-LABEL: sym_name = "merge"
// CHECK: %[[X:.*]] = "aten.mul.Tensor"
// CHECK-NOT: aten.mul.Tensor
// CHECK: "aten.add.Tensor"(%[[X]], %[[X]])
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf32>, sym_name = "merge"}> ({
^bb0(%x: tensor<4xf32>):
  %0 = "aten.mul.Tensor"(%x, %x) <{args = ["self", "other"]}> : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %1 = "aten.mul.Tensor"(%x, %x) <{args = ["self", "other"]}> : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  %2 = "aten.add.Tensor"(%0, %1) <{args = ["self", "other"]}> : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  "func.return"(%2) : (tensor<4xf32>) -> ()
}) : () -> ()

// Random numbers are drawn twice.
// CHECK-LABEL: sym_name = "random"
// CHECK: "aten.rand_like"
// CHECK: "aten.rand_like"
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf32>, sym_name = "random"}> ({
^bb0(%x: tensor<4xf32>):
  %0 = "aten.rand_like"(%x) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "aten.rand_like"(%x) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  %2 = "aten.add.Tensor"(%0, %1) <{args = ["self", "other"]}> : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32>
  "func.return"(%2) : (tensor<4xf32>) -> ()
}) : () -> ()

// A property is part of what an operation does.
// CHECK-LABEL: sym_name = "properties"
// CHECK: dim = 0
// CHECK: dim = 1
"func.func"() <{function_type = (tensor<4x4xf32>) -> tensor<4x4xf32>, sym_name = "properties"}> ({
^bb0(%x: tensor<4x4xf32>):
  %0 = "aten.softmax.int"(%x) <{args = ["self"], dim = 0 : i64}> : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %1 = "aten.softmax.int"(%x) <{args = ["self"], dim = 1 : i64}> : (tensor<4x4xf32>) -> tensor<4x4xf32>
  %2 = "aten.add.Tensor"(%0, %1) <{args = ["self", "other"]}> : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32>
  "func.return"(%2) : (tensor<4x4xf32>) -> ()
}) : () -> ()
