// Integer identities, each with a case just outside of it. A result is read by the return.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// A constant moves to the right of what commutes, and stays on the left of what does not.
// CHECK-LABEL: sym_name = "order"
// CHECK: ^bb0(%x: i64):
// CHECK-NEXT: %[[TWO:.*]] = "arith.constant"
// CHECK-NEXT: %[[SUM:.*]] = "arith.addi"(%x, %[[TWO]])
// CHECK-NEXT: %[[DIFFERENCE:.*]] = "arith.subi"(%[[TWO]], %x)
// CHECK-NEXT: "func.return"(%[[SUM]], %[[DIFFERENCE]])
"func.func"() <{function_type = (i64) -> (i64, i64), sym_name = "order"}> ({
^bb0(%x: i64):
  %two = "arith.constant"() <{value = 2 : i64}> : () -> i64
  %sum = "arith.addi"(%two, %x) : (i64, i64) -> i64
  %difference = "arith.subi"(%two, %x) : (i64, i64) -> i64
  "func.return"(%sum, %difference) : (i64, i64) -> ()
}) : () -> ()

// x + 0, x - 0, x * 1, x / 1 are x.
// CHECK-LABEL: sym_name = "neutral"
// CHECK-NEXT: ^bb0(%x: i64):
// CHECK-NEXT: "func.return"(%x, %x, %x, %x)
"func.func"() <{function_type = (i64) -> (i64, i64, i64, i64), sym_name = "neutral"}> ({
^bb0(%x: i64):
  %zero = "arith.constant"() <{value = 0 : i64}> : () -> i64
  %one = "arith.constant"() <{value = 1 : i64}> : () -> i64
  %a = "arith.addi"(%x, %zero) : (i64, i64) -> i64
  %b = "arith.subi"(%x, %zero) : (i64, i64) -> i64
  %c = "arith.muli"(%one, %x) : (i64, i64) -> i64
  %d = "arith.floordivsi"(%x, %one) : (i64, i64) -> i64
  "func.return"(%a, %b, %c, %d) : (i64, i64, i64, i64) -> ()
}) : () -> ()

// The i1 true is -1: x * true is not dropped as a factor 1, nor x / true.
// CHECK-LABEL: sym_name = "true_is_minus_one"
// CHECK: "arith.divsi"
"func.func"() <{function_type = (i1) -> i1, sym_name = "true_is_minus_one"}> ({
^bb0(%x: i1):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %a = "arith.divsi"(%x, %true) : (i1, i1) -> i1
  "func.return"(%a) : (i1) -> ()
}) : () -> ()

// x * 0, x - x, x mod 1 are 0; 0 / x is not known to be, since x may be 0.
// CHECK-LABEL: sym_name = "zero"
// CHECK: %[[ZERO:.*]] = "arith.constant"() <{value = 0 : i64}>
// CHECK: %[[QUOTIENT:.*]] = "arith.divsi"
// CHECK-NOT: arith.subi
// CHECK-NOT: arith.muli
// CHECK-NOT: arith.remsi
// CHECK: "func.return"
"func.func"() <{function_type = (i64) -> (i64, i64, i64, i64), sym_name = "zero"}> ({
^bb0(%x: i64):
  %zero = "arith.constant"() <{value = 0 : i64}> : () -> i64
  %one = "arith.constant"() <{value = 1 : i64}> : () -> i64
  %a = "arith.muli"(%x, %zero) : (i64, i64) -> i64
  %b = "arith.subi"(%x, %x) : (i64, i64) -> i64
  %c = "arith.remsi"(%x, %one) : (i64, i64) -> i64
  %d = "arith.divsi"(%zero, %x) : (i64, i64) -> i64
  "func.return"(%a, %b, %c, %d) : (i64, i64, i64, i64) -> ()
}) : () -> ()

// x - x of unknown sizes has no constant to become.
// CHECK-LABEL: sym_name = "unknown_size"
// CHECK: "arith.subi"
"func.func"() <{function_type = (tensor<?xi64>) -> tensor<?xi64>, sym_name = "unknown_size"}> ({
^bb0(%x: tensor<?xi64>):
  %a = "arith.subi"(%x, %x) : (tensor<?xi64>, tensor<?xi64>) -> tensor<?xi64>
  "func.return"(%a) : (tensor<?xi64>) -> ()
}) : () -> ()

// x & true, x | false, x & x, min(x, x) are x; x | true is true; x ^ x is false.
// CHECK-LABEL: sym_name = "logic"
// CHECK: ^bb0(%x: i1):
// CHECK-DAG: %[[TRUE:.*]] = "arith.constant"() <{value = true}>
// CHECK-DAG: %[[FALSE:.*]] = "arith.constant"() <{value = false}>
// CHECK: "func.return"(%x, %x, %x, %x, %[[TRUE]], %[[FALSE]])
"func.func"() <{function_type = (i1) -> (i1, i1, i1, i1, i1, i1), sym_name = "logic"}> ({
^bb0(%x: i1):
  %true = "arith.constant"() <{value = true}> : () -> i1
  %false = "arith.constant"() <{value = false}> : () -> i1
  %a = "arith.andi"(%x, %true) : (i1, i1) -> i1
  %b = "arith.ori"(%false, %x) : (i1, i1) -> i1
  %c = "arith.andi"(%x, %x) : (i1, i1) -> i1
  %d = "arith.minsi"(%x, %x) : (i1, i1) -> i1
  %e = "arith.ori"(%x, %true) : (i1, i1) -> i1
  %f = "arith.xori"(%x, %x) : (i1, i1) -> i1
  "func.return"(%a, %b, %c, %d, %e, %f) : (i1, i1, i1, i1, i1, i1) -> ()
}) : () -> ()

// x & 1 keeps one bit of many, so it stays.
// CHECK-LABEL: sym_name = "one_bit"
// CHECK: "arith.andi"
"func.func"() <{function_type = (i64) -> i64, sym_name = "one_bit"}> ({
^bb0(%x: i64):
  %one = "arith.constant"() <{value = 1 : i64}> : () -> i64
  %a = "arith.andi"(%x, %one) : (i64, i64) -> i64
  "func.return"(%a) : (i64) -> ()
}) : () -> ()

// (x + 2) + 3 is x + 5, around the end of the type too.
// CHECK-LABEL: sym_name = "associate"
// CHECK-DAG: %[[FIVE:.*]] = "arith.constant"() <{value = 5 : i64}>
// CHECK-DAG: %[[WRAPPED:.*]] = "arith.constant"() <{value = -56 : i8}>
// CHECK-DAG: "arith.addi"(%x, %[[FIVE]])
// CHECK-DAG: "arith.addi"(%y, %[[WRAPPED]])
// CHECK-NOT: arith.addi
"func.func"() <{function_type = (i64, i8) -> (i64, i8), sym_name = "associate"}> ({
^bb0(%x: i64, %y: i8):
  %two = "arith.constant"() <{value = 2 : i64}> : () -> i64
  %three = "arith.constant"() <{value = 3 : i64}> : () -> i64
  %hundred = "arith.constant"() <{value = 100 : i8}> : () -> i8
  %a = "arith.addi"(%x, %two) : (i64, i64) -> i64
  %b = "arith.addi"(%a, %three) : (i64, i64) -> i64
  %c = "arith.addi"(%y, %hundred) : (i8, i8) -> i8
  %d = "arith.addi"(%c, %hundred) : (i8, i8) -> i8
  "func.return"(%b, %d) : (i64, i8) -> ()
}) : () -> ()

// A sum that promises not to overflow is left alone: the merged one could not promise it.
// CHECK-LABEL: sym_name = "promise"
// CHECK: "arith.addi"(%x
// CHECK: "arith.addi"
"func.func"() <{function_type = (i64) -> i64, sym_name = "promise"}> ({
^bb0(%x: i64):
  %two = "arith.constant"() <{value = 2 : i64}> : () -> i64
  %a = "arith.addi"(%x, %two) <{overflowFlags = #arith.overflow<nsw>}> : (i64, i64) -> i64
  %b = "arith.addi"(%a, %two) <{overflowFlags = #arith.overflow<nsw>}> : (i64, i64) -> i64
  "func.return"(%b) : (i64) -> ()
}) : () -> ()

// A division by zero has no value to fold to.
// CHECK-LABEL: sym_name = "division_by_zero"
// CHECK: "arith.divsi"
"func.func"() <{function_type = () -> i64, sym_name = "division_by_zero"}> ({
  %zero = "arith.constant"() <{value = 0 : i64}> : () -> i64
  %one = "arith.constant"() <{value = 1 : i64}> : () -> i64
  %a = "arith.divsi"(%one, %zero) : (i64, i64) -> i64
  "func.return"(%a) : (i64) -> ()
}) : () -> ()
