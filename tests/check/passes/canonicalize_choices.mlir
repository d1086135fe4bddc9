// Comparisons and choices.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// The constant of a comparison moves right, which turns the relation around.
// CHECK-LABEL: sym_name = "turned"
// CHECK: "arith.cmpi"(%x, %{{.*}}) <{predicate = 4 : i64}>
// CHECK: "arith.cmpi"(%x, %{{.*}}) <{predicate = 0 : i64}>
"func.func"() <{function_type = (i64) -> (i1, i1), sym_name = "turned"}> ({
^bb0(%x: i64):
  %two = "arith.constant"() <{value = 2 : i64}> : () -> i64
  %less = "arith.cmpi"(%two, %x) <{predicate = 2 : i64}> : (i64, i64) -> i1
  %equal = "arith.cmpi"(%two, %x) <{predicate = 0 : i64}> : (i64, i64) -> i1
  "func.return"(%less, %equal) : (i1, i1) -> ()
}) : () -> ()

// x <= x holds, x < x does not; of floats neither is known, because of nan.
// CHECK-LABEL: sym_name = "itself"
// CHECK-DAG: %[[TRUE:.*]] = "arith.constant"() <{value = true}>
// CHECK-DAG: %[[FALSE:.*]] = "arith.constant"() <{value = false}>
// CHECK-DAG: %[[OPEN:.*]] = "arith.cmpf"(%y, %y)
// CHECK: "func.return"(%[[TRUE]], %[[FALSE]], %[[OPEN]])
"func.func"() <{function_type = (i64, f32) -> (i1, i1, i1), sym_name = "itself"}> ({
^bb0(%x: i64, %y: f32):
  %a = "arith.cmpi"(%x, %x) <{predicate = 3 : i64}> : (i64, i64) -> i1
  %b = "arith.cmpi"(%x, %x) <{predicate = 2 : i64}> : (i64, i64) -> i1
  %c = "arith.cmpf"(%y, %y) <{predicate = 3 : i64}> : (f32, f32) -> i1
  "func.return"(%a, %b, %c) : (i1, i1, i1) -> ()
}) : () -> ()

// not (x < y) is x >= y; of floats it is unordered or >=, so that nan stays on its side.
// CHECK-LABEL: sym_name = "negated"
// CHECK: "arith.cmpi"(%x, %y) <{predicate = 5 : i64}>
// CHECK: "arith.cmpf"(%u, %v) <{predicate = 10 : i64}>
// CHECK-NOT: arith.xori
"func.func"() <{function_type = (i64, i64, f32, f32) -> (i1, i1), sym_name = "negated"}> ({
^bb0(%x: i64, %y: i64, %u: f32, %v: f32):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %a = "arith.cmpi"(%x, %y) <{predicate = 2 : i64}> : (i64, i64) -> i1
  %b = "arith.xori"(%a, %true) : (i1, i1) -> i1
  %c = "arith.cmpf"(%u, %v) <{predicate = 4 : i64}> : (f32, f32) -> i1
  %d = "arith.xori"(%true, %c) : (i1, i1) -> i1
  "func.return"(%b, %d) : (i1, i1) -> ()
}) : () -> ()

// A choice that is known, of one thing only, or of true and false, is no choice.
// CHECK-LABEL: sym_name = "no_choice"
// CHECK: ^bb0(%c: i1, %x: f32, %y: f32):
// CHECK: "func.return"(%x, %y, %x, %c)
"func.func"() <{function_type = (i1, f32, f32) -> (f32, f32, f32, i1), sym_name = "no_choice"}> ({
^bb0(%c: i1, %x: f32, %y: f32):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %false = "arith.constant"() <{value = false}> : () -> i1
  %a = "arith.select"(%true, %x, %y) : (i1, f32, f32) -> f32
  %b = "arith.select"(%false, %x, %y) : (i1, f32, f32) -> f32
  %d = "arith.select"(%c, %x, %x) : (i1, f32, f32) -> f32
  %e = "arith.select"(%c, %true, %false) : (i1, i1, i1) -> i1
  "func.return"(%a, %b, %d, %e) : (f32, f32, f32, i1) -> ()
}) : () -> ()

// A negated condition exchanges the choices; the same condition asked twice is asked once.
// CHECK-LABEL: sym_name = "nested"
// CHECK: %[[SWAPPED:.*]] = "arith.select"(%c, %y, %x)
// CHECK: %[[ONCE:.*]] = "arith.select"(%c, %x, %z)
// CHECK: "func.return"(%[[SWAPPED]], %[[ONCE]])
"func.func"() <{function_type = (i1, f32, f32, f32) -> (f32, f32), sym_name = "nested"}> ({
^bb0(%c: i1, %x: f32, %y: f32, %z: f32):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %not = "arith.xori"(%c, %true) : (i1, i1) -> i1
  %a = "arith.select"(%not, %x, %y) : (i1, f32, f32) -> f32
  %inner = "arith.select"(%c, %x, %y) : (i1, f32, f32) -> f32
  %b = "arith.select"(%c, %inner, %z) : (i1, f32, f32) -> f32
  "func.return"(%a, %b) : (f32, f32) -> ()
}) : () -> ()

// Different conditions stay two choices.
// CHECK-LABEL: sym_name = "two_conditions"
// CHECK: "arith.select"(%d
// CHECK: "arith.select"(%c
"func.func"() <{function_type = (i1, i1, f32, f32) -> f32, sym_name = "two_conditions"}> ({
^bb0(%c: i1, %d: i1, %x: f32, %y: f32):
  %a = "arith.select"(%d, %x, %y) : (i1, f32, f32) -> f32
  %b = "arith.select"(%c, %a, %y) : (i1, f32, f32) -> f32
  "func.return"(%b) : (f32) -> ()
}) : () -> ()
