// Each mistake is named where it stands, with what was expected and what is there.
// RUN: attir opt %s --split-input-file --verify-diagnostics

// expected-error@+1 {{'attn.atention' op is unknown in dialect 'attn'; did you mean 'attn.attention'?}}
"attn.atention"() : () -> ()

// -----

// expected-error@+1 {{'nowhere.op' op belongs to no known dialect}}
"nowhere.op"() : () -> ()

// -----

"func.func"() <{function_type = (tensor<2x4x8x64xf16>, tensor<2x4x8x32xf16>) -> (), sym_name = "heads"}> ({
^bb0(%q: tensor<2x4x8x64xf16>, %k: tensor<2x4x8x32xf16>):
  // expected-error@+1 {{head dimensions differ: q has 64, k has 32}}
  %o, %l = "attn.attention"(%q, %k, %k) ({}, {}) : (tensor<2x4x8x64xf16>, tensor<2x4x8x32xf16>, tensor<2x4x8x32xf16>) -> (tensor<2x4x8x32xf16>, tensor<2x4x8xf32>)
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = (f32, f64) -> (), sym_name = "types"}> ({
^bb0(%x: f32, %y: f64):
  // expected-error@+1 {{operands and result must have one type, but have f32, f64, f32}}
  %z = "arith.addf"(%x, %y) : (f32, f64) -> f32
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = (f32) -> (), sym_name = "count"}> ({
^bb0(%x: f32):
  // expected-error@+1 {{must have 2 operands, but has 1}}
  %z = "arith.mulf"(%x) : (f32) -> f32
  "func.return"() : () -> ()
}) : () -> ()
