// What nothing uses goes, and then what only that used; effects stay.
// RUN: attir opt %s --passes=dce | filecheck %s

// CHECK-LABEL: sym_name = "chain"
// CHECK-NOT: aten.exp
// CHECK-NOT: aten.neg
// CHECK: "aten._assert_async.msg"
// CHECK: "fx.print"
// CHECK: "func.return"(%x)
"func.func"() <{function_type = (tensor<4xf32>) -> tensor<4xf32>, sym_name = "chain"}> ({
^bb0(%x: tensor<4xf32>):
  %0 = "aten.exp"(%x) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  %1 = "aten.neg"(%0) <{args = ["self"]}> : (tensor<4xf32>) -> tensor<4xf32>
  "aten._assert_async.msg"(%x) <{args = ["self"], assert_msg = "no"}> : (tensor<4xf32>) -> ()
  %2 = "fx.print"(%x) : (tensor<4xf32>) -> tensor<4xf32>
  "func.return"(%x) : (tensor<4xf32>) -> ()
}) : () -> ()
