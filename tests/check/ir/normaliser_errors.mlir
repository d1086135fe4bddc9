// RUN: attir opt %s --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x8x16xf32>) -> tensor<1x2x8x16xf32>, sym_name = "values"}> ({
  ^bb0(%q: tensor<1x2x8x16xf32>):
    // expected-error@below {{normaliser max is for values without a width and for no sink, but v is tensor<1x2x8x16xf32>}}
    %out, %lse = "attn.attention"(%q, %q, %q) <{normaliser = "max"}> ({
    }, {
    }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x16xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x0xf32>) -> tensor<1x2x8xf32>, sym_name = "empty"}> ({
  ^bb0(%q: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x0xf32>):
    // expected-error@below {{normaliser max is for no empty_score, but there is -1.0 : f32}}
    %out, %lse = "attn.attention"(%q, %q, %v) <{normaliser = "max", empty_score = -1.0 : f32}> ({
    }, {
    }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x0xf32>) -> (tensor<1x2x8x0xf32>, tensor<1x2x8xf32>)
    "func.return"(%lse) : (tensor<1x2x8xf32>) -> ()
  }) : () -> ()
}) : () -> ()
