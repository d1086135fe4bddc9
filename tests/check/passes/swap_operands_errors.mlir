// What works on matrices in a way that has no transpose is refused.
// RUN: attir opt %s --passes=swap-operands --split-input-file --verify-diagnostics

"builtin.module"() ({
  "tile.kernel"() <{function_type = (tensor<4x8xf32>) -> (), sym_name = "extracts", swapped}> ({
  ^bb0(%x: tensor<4x8xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one) : (index) -> ()
  }, {
  ^bb0(%x: tensor<4x8xf32>):
    %zero = "arith.constant"() <{value = 0 : index}> : () -> index
    %ones = "arith.constant"() <{value = dense<1.0> : tensor<4x8xf32>}> : () -> tensor<4x8xf32>
    // expected-error@+1 {{'tensor.extract' op works on a matrix tile in a way that cannot be swapped}}
    %first = "tensor.extract"(%ones, %zero, %zero) : (tensor<4x8xf32>, index, index) -> f32
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()

// -----

"builtin.module"() ({
  "tile.kernel"() <{function_type = (tensor<4x8xf32>) -> (), sym_name = "cubes", swapped}> ({
  ^bb0(%x: tensor<4x8xf32>):
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    "tile.yield"(%one) : (index) -> ()
  }, {
  ^bb0(%x: tensor<4x8xf32>):
    // expected-error@+1 {{'arith.constant' op gives a tile of rank 3, of which no transpose is known}}
    %cube = "arith.constant"() <{value = dense<1.0> : tensor<2x4x8xf32>}> : () -> tensor<2x4x8xf32>
    "tile.return"() : () -> ()
  }) : () -> ()
}) : () -> ()
