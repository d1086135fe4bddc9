// The example of the README: constants fold, a doubled negation goes.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// CHECK: "func.func"
// CHECK-NEXT: ^bb0(%[[X:.*]]: f32):
// CHECK-NEXT: %[[C:.*]] = "arith.constant"() <{value = 5.0 : f32}>
// CHECK-NEXT: %[[Y:.*]] = "arith.mulf"(%[[X]], %[[C]])
// CHECK-NEXT: "func.return"(%[[Y]])
"func.func"() <{function_type = (f32) -> f32, sym_name = "scaled"}> ({
^bb0(%x: f32):
  %two = "arith.constant"() <{value = 2.0 : f32}> : () -> f32
  %three = "arith.constant"() <{value = 3.0 : f32}> : () -> f32
  %five = "arith.addf"(%two, %three) : (f32, f32) -> f32
  %minus = "arith.negf"(%x) : (f32) -> f32
  %plus = "arith.negf"(%minus) : (f32) -> f32
  %y = "arith.mulf"(%plus, %five) : (f32, f32) -> f32
  "func.return"(%y) : (f32) -> ()
}) : () -> ()
