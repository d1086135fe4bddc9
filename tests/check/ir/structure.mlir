// What the verifier says about blocks, regions and the values they may read.
// RUN: attir opt %s --split-input-file --verify-diagnostics

"func.func"() <{function_type = (tensor<2x4x8x64xf16>, i1) -> (), sym_name = "isolation"}> ({
^bb0(%q: tensor<2x4x8x64xf16>, %outer: i1):
  %o, %l = "attn.attention"(%q, %q, %q) ({}, {
  ^bb0(%b: index, %h: index, %m: index, %n: index):
    // expected-error@+1 {{operand 0 comes from outside 'attn.attention', whose regions use no outer value}}
    "attn.yield"(%outer) : (i1) -> ()
  }) : (tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>, tensor<2x4x8x64xf16>) -> (tensor<2x4x8x64xf16>, tensor<2x4x8xf32>)
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = () -> (), sym_name = "early"}> ({
  // expected-error@+1 {{ends its block, so it must be the last operation there}}
  "func.return"() : () -> ()
  %x = "arith.constant"() <{value = 1 : i64}> : () -> i64
  "func.return"() : () -> ()
}) : () -> ()

// -----

// expected-error@+1 {{region 'body' must not be empty}}
"func.func"() <{function_type = () -> (), sym_name = "empty"}> ({}) : () -> ()

// -----

// expected-error@+1 {{region 'body' must have one block, but has 2}}
"func.func"() <{function_type = () -> (), sym_name = "blocks"}> ({
  "func.return"() : () -> ()
^bb1:
  "func.return"() : () -> ()
}) : () -> ()

// -----

// Both mistakes of one operation are reported, and its own law, which builds on them, is not run.
// expected-error@+2 {{has no property 'colour'}}
// expected-error@+1 {{property 'function_type' (FunctionType) is missing}}
"func.func"() <{colour = "red", sym_name = "two"}> ({
  "func.return"() : () -> ()
}) : () -> ()

// -----

// expected-note@+1 {{the name is first given here}}
"func.func"() <{function_type = () -> (), sym_name = "same"}> ({
  "func.return"() : () -> ()
}) : () -> ()
// expected-error@+1 {{has the name "same" again}}
"func.func"() <{function_type = () -> (), sym_name = "same"}> ({
  "func.return"() : () -> ()
}) : () -> ()

// -----

// expected-error@+1 {{must be inside 'func.func'}}
"func.return"() : () -> ()

// -----

// expected-error@+1 {{must be inside 'scf.for' or 'scf.if'}}
"scf.yield"() : () -> ()
