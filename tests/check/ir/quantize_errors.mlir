// RUN: attir opt %s --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{integers must have 1 to 8 bits, but have 9}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {bits = 9 : i64, width = 20 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{codes of one bit tell two numbers apart only beside a zero; expected zero=True}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {bits = 1 : i64, width = 20 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{unknown entry of a storage: color = 1 : i64; expected kind, bits}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {width = 20 : i64, color = 1 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{'width' of a storage must be int, but is True}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {width = true}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x3x3xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x16xi8>, tensor<1x2x9x1xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{x must have rows of 16 numbers, but is tensor<1x2x9x20xf16>}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {width = 16 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x16xi8>, tensor<1x2x9x1xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x16xi8>, tensor<1x2x9x1xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{of 20 numbers as int4, a scale for each token x all channels must be ... x 10 x i8, but is tensor<1x2x9x20xi8>}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {bits = 4 : i64, width = 20 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{must be ... x 20 x f8E4M3FN, but is tensor<1x2x9x20xi8>}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {kind = "f8E4M3FN", width = 20 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{int8, a scale for each token x 7 channels needs scales ... x 3, but has tensor<1x2x9x1xf32>}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {channels = 7 : i64, width = 20 : i64}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{has 2 tensors of scales, but there are 1}}
    %r0, %r1 = "attn.quantize"(%x) <{storage = {width = 20 : i64, zero = true}}> : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xi8>, tensor<1x2x9x1xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9x20xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{result 'mean' must be tensor<1x2x1x20xf32>, but is tensor<1x2x9x20xf32>}}
    %r0, %r1 = "attn.subtract_mean"(%x) : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9x20xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xf16>, tensor<1x2x9x20xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xf32>, tensor<1x2x1x20xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>):
    // expected-error@below {{result 'out' must be tensor<1x2x9x20xf16>, but is tensor<1x2x9x20xf32>}}
    %r0, %r1 = "attn.subtract_mean"(%x) : (tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xf32>, tensor<1x2x1x20xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xf32>, tensor<1x2x1x20xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>, tensor<1x2x16x20xf32>) -> tensor<1x2x9x20xf16>}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>, %y: tensor<1x2x16x20xf32>):
    // expected-error@below {{a basis for rows of 20 must have as many rows, but is tensor<1x2x16x20xf32>}}
    %r0 = "attn.project"(%x, %y) : (tensor<1x2x9x20xf16>, tensor<1x2x16x20xf32>) -> tensor<1x2x9x20xf16>
    "func.return"(%r0) : (tensor<1x2x9x20xf16>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>, tensor<1x2x20x4xf32>) -> tensor<1x2x9x20xf16>}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>, %y: tensor<1x2x20x4xf32>):
    // expected-error@below {{result must be tensor<1x2x9x4xf16>, but is tensor<1x2x9x20xf16>}}
    %r0 = "attn.project"(%x, %y) : (tensor<1x2x9x20xf16>, tensor<1x2x20x4xf32>) -> tensor<1x2x9x20xf16>
    "func.return"(%r0) : (tensor<1x2x9x20xf16>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>, tensor<1x2x20x20xf32>) -> tensor<1x2x9x20xf16>}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>, %y: tensor<1x2x20x20xf32>):
    // expected-error@below {{group must be positive, but is 0}}
    %r0 = "attn.project"(%x, %y) <{group = 0 : i64}> : (tensor<1x2x9x20xf16>, tensor<1x2x20x20xf32>) -> tensor<1x2x9x20xf16>
    "func.return"(%r0) : (tensor<1x2x9x20xf16>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>, %y: tensor<1x2x9xf32>):
    // expected-error@below {{needs pairs of out and lse, but has 3 operands}}
    %r0, %r1 = "attn.merge"(%x, %y, %x) : (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>, tensor<1x2x9x20xf16>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>, tensor<1x2x9x20xf16>, tensor<1x2x8xf32>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>)}> ({
  ^bb0(%x: tensor<1x2x9x20xf16>, %y: tensor<1x2x9xf32>, %z: tensor<1x2x9x20xf16>, %w: tensor<1x2x8xf32>):
    // expected-error@below {{operand 3 must be tensor<1x2x9xf32>, but is tensor<1x2x8xf32>}}
    %r0, %r1 = "attn.merge"(%x, %y, %z, %w) : (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>, tensor<1x2x9x20xf16>, tensor<1x2x8xf32>) -> (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>)
    "func.return"(%r0, %r1) : (tensor<1x2x9x20xf16>, tensor<1x2x9xf32>) -> ()
  }) : () -> ()
}) : () -> ()
