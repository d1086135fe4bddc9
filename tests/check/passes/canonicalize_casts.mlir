// Casts go where they lose nothing.
// RUN: attir opt %s --passes=canonicalize | filecheck %s

// Through a type as wide: i64 holds every index, index holds every i32.
// CHECK-LABEL: sym_name = "there_and_back"
// CHECK: ^bb0(%x: index, %y: i32):
// CHECK-NEXT: "func.return"(%x, %y)
"func.func"() <{function_type = (index, i32) -> (index, i32), sym_name = "there_and_back"}> ({
^bb0(%x: index, %y: i32):
  %a = "arith.index_cast"(%x) : (index) -> i64
  %b = "arith.index_cast"(%a) : (i64) -> index
  %c = "arith.index_cast"(%y) : (i32) -> index
  %d = "arith.index_cast"(%c) : (index) -> i32
  "func.return"(%b, %d) : (index, i32) -> ()
}) : () -> ()

// An i32 does not hold every index.
// CHECK-LABEL: sym_name = "too_narrow"
// CHECK-COUNT-2: arith.index_cast
"func.func"() <{function_type = (index) -> index, sym_name = "too_narrow"}> ({
^bb0(%x: index):
  %a = "arith.index_cast"(%x) : (index) -> i32
  %b = "arith.index_cast"(%a) : (i32) -> index
  "func.return"(%b) : (index) -> ()
}) : () -> ()

// Widening is undone exactly, and two widenings are one.
// CHECK-LABEL: sym_name = "widened"
// CHECK: %[[WIDE:.*]] = "arith.extf"(%h) : (f16) -> f64
// CHECK-NEXT: "func.return"(%h, %[[WIDE]], %i)
"func.func"() <{function_type = (f16, i8) -> (f16, f64, i8), sym_name = "widened"}> ({
^bb0(%h: f16, %i: i8):
  %a = "arith.extf"(%h) : (f16) -> f32
  %b = "arith.truncf"(%a) : (f32) -> f16
  %c = "arith.extf"(%a) : (f32) -> f64
  %d = "arith.extui"(%i) : (i8) -> i64
  %e = "arith.trunci"(%d) : (i64) -> i8
  "func.return"(%b, %c, %e) : (f16, f64, i8) -> ()
}) : () -> ()

// Narrowing rounds: what was narrowed and widened again is another number.
// CHECK-LABEL: sym_name = "narrowed"
// CHECK: "arith.truncf"
// CHECK: "arith.extf"
"func.func"() <{function_type = (f32) -> f32, sym_name = "narrowed"}> ({
^bb0(%x: f32):
  %a = "arith.truncf"(%x) : (f32) -> f16
  %b = "arith.extf"(%a) : (f16) -> f32
  "func.return"(%b) : (f32) -> ()
}) : () -> ()

// From f16 through f32 into bf16 rounds once, where it is rounded: that is no way back.
// CHECK-LABEL: sym_name = "other_format"
// CHECK: "arith.extf"
// CHECK: "arith.truncf"
"func.func"() <{function_type = (f16) -> bf16, sym_name = "other_format"}> ({
^bb0(%x: f16):
  %a = "arith.extf"(%x) : (f16) -> f32
  %b = "arith.truncf"(%a) : (f32) -> bf16
  "func.return"(%b) : (bf16) -> ()
}) : () -> ()

// A sign extension into a zero extension keeps both.
// CHECK-LABEL: sym_name = "mixed"
// CHECK: "arith.extsi"
// CHECK: "arith.extui"
"func.func"() <{function_type = (i8) -> i64, sym_name = "mixed"}> ({
^bb0(%x: i8):
  %a = "arith.extsi"(%x) : (i8) -> i32
  %b = "arith.extui"(%a) : (i32) -> i64
  "func.return"(%b) : (i64) -> ()
}) : () -> ()
