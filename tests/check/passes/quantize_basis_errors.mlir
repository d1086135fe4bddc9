// RUN: attir opt %s --passes="quantize{tensors=value_basis}" --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x16x4xf32>) -> tensor<1x2x8x16xf32>}> ({
  ^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>, %basis: tensor<1x2x16x4xf32>):
    // expected-error@below {{values in another basis give out in that basis, but region 'output' reads it}}
    %out, %lse = "attn.attention"(%q, %k, %v) ({
    }, {
    }, {
    }, {
    }, {
    }, {
    }, {
    }, {
    ^bb1(%o: f32, %b: index, %h: index, %m: index, %e: index):
      "attn.yield"(%o) : (f32) -> ()
    }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x16xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x12x4xf32>) -> tensor<1x2x8x16xf32>}> ({
  ^bb0(%q: tensor<1x2x8x16xf32>, %k: tensor<1x2x8x16xf32>, %v: tensor<1x2x8x16xf32>, %basis: tensor<1x2x12x4xf32>):
    // expected-error@below {{the basis for 'value' must have 16 rows and a constant width, but is tensor<1x2x12x4xf32>}}
    %out, %lse = "attn.attention"(%q, %k, %v) ({
    }, {
    }) : (tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>, tensor<1x2x8x16xf32>) -> (tensor<1x2x8x16xf32>, tensor<1x2x8xf32>)
    "func.return"(%out) : (tensor<1x2x8x16xf32>) -> ()
  }) : () -> ()
}) : () -> ()
