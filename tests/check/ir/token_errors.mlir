// RUN: attir opt %s --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<20xi32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{tile must be 2 positive sizes, but is array<i64: 4>}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, tile = array<i64: 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    "func.return"(%order) : (tensor<20xi32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<20xi32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{grid must be 1 positive sizes, but is array<i64: 0>}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 0>, tile = array<i64: 2, 2>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    "func.return"(%order) : (tensor<20xi32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<20xi32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{inner array<i64: 2, 3> must divide tile array<i64: 4, 4>}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, inner = array<i64: 2, 3>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    "func.return"(%order) : (tensor<20xi32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<20xi32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{must have 5 results, but has 3}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{dilation = array<i64: 1, 2>, grid = array<i64: 5>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    "func.return"(%order) : (tensor<20xi32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<19xi32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{an order of 19 tokens does not fit the 20 of tensor<1x2x20x4xf32>}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<19xi32>, tensor<19xi32>, tensor<19xi32>)
    "func.return"(%order) : (tensor<19xi32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<20xi64>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    // expected-error@below {{result 'order' must be a tensor of i32 of rank 1, but is tensor<20xi64>}}
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi64>, tensor<20xi64>, tensor<20xi64>)
    "func.return"(%order) : (tensor<20xi64>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<1x2x20x8xf32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    // expected-error@below {{result must be tensor<1x2x20x4xf32>, but is tensor<1x2x20x8xf32>}}
    %g = "attn.gather_tokens"(%x, %order) : (tensor<1x2x20x4xf32>, tensor<20xi32>) -> tensor<1x2x20x8xf32>
    "func.return"(%g) : (tensor<1x2x20x8xf32>) -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "func.func"() <{function_type = (tensor<1x2x20x4xf32>) -> tensor<1x2x20x8xf32>, sym_name = "f"}> ({
  ^bb0(%x: tensor<1x2x20x4xf32>):
    %order, %c0, %c1 = "attn.token_order"(%x) <{grid = array<i64: 5>, tile = array<i64: 4, 4>}> : (tensor<1x2x20x4xf32>) -> (tensor<20xi32>, tensor<20xi32>, tensor<20xi32>)
    // expected-error@below {{result must be tensor<1x2x20x4xf32>, but is tensor<1x2x20x8xf32>}}
    %g = "attn.scatter_tokens"(%x, %order) : (tensor<1x2x20x4xf32>, tensor<20xi32>) -> tensor<1x2x20x8xf32>
    "func.return"(%g) : (tensor<1x2x20x8xf32>) -> ()
  }) : () -> ()
}) : () -> ()
