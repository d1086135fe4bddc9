// Arithmetic folds only where the result is the same to the last bit.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// Unit factors and doubled negations go; a comparison of a value with itself is known.
// CHECK-LABEL: sym_name = "identities"
// CHECK-NEXT: ^bb0(%[[X:.*]]: f32, %[[I:.*]]: index):
// CHECK-NEXT: %[[T:.*]] = "arith.constant"() <{value = true}>
// CHECK-NEXT: "func.return"(%[[X]], %[[I]], %[[T]])
"func.func"() <{function_type = (f32, index) -> (f32, index, i1), sym_name = "identities"}> ({
^bb0(%x: f32, %i: index):
  %one = "arith.constant"() <{value = 1.0 : f32}> : () -> f32
  %zero = "arith.constant"() <{value = 0 : index}> : () -> index
  %a = "arith.mulf"(%x, %one) : (f32, f32) -> f32
  %b = "arith.negf"(%a) : (f32) -> f32
  %c = "arith.negf"(%b) : (f32) -> f32
  %j = "arith.addi"(%zero, %i) : (index, index) -> index
  %k = "arith.cmpi"(%j, %i) <{predicate = 3 : i64}> : (index, index) -> i1
  "func.return"(%c, %j, %k) : (f32, index, i1) -> ()
}) : () -> ()

// x + 0.0 turns -0.0 into 0.0, so it stays; x == x is false for nan, so it stays.
// CHECK-LABEL: sym_name = "kept"
// CHECK: arith.addf
// CHECK: arith.cmpf
"func.func"() <{function_type = (f32) -> (f32, i1), sym_name = "kept"}> ({
^bb0(%x: f32):
  %zero = "arith.constant"() <{value = 0.0 : f32}> : () -> f32
  %a = "arith.addf"(%x, %zero) : (f32, f32) -> f32
  %b = "arith.cmpf"(%x, %x) <{predicate = 1 : i64}> : (f32, f32) -> i1
  "func.return"(%a, %b) : (f32, i1) -> ()
}) : () -> ()

// Constants fold in the precision of their type: 0.1 + 0.2 in f32.
// CHECK-LABEL: sym_name = "rounded"
// CHECK: value = 3.0e-01 : f32
"func.func"() <{function_type = () -> f32, sym_name = "rounded"}> ({
  %a = "arith.constant"() <{value = 1.0e-01 : f32}> : () -> f32
  %b = "arith.constant"() <{value = 2.0e-01 : f32}> : () -> f32
  %c = "arith.addf"(%a, %b) : (f32, f32) -> f32
  "func.return"(%c) : (f32) -> ()
}) : () -> ()
