// Causal attention as torch-mlir's FxImporter prints it, sizes dynamic: attir compile examples/attention.mlir
module {
  func.func @main(%q: !torch.vtensor<[1,2,?,16],f32>, %k: !torch.vtensor<[1,2,?,16],f32>, %v: !torch.vtensor<[1,2,?,16],f32>) -> !torch.vtensor<[1,2,?,16],f32> {
    %s0 = torch.symbolic_int "s0" {min_val = 2, max_val = 4096} : !torch.int
    torch.bind_symbolic_shape %q, [%s0], affine_map<()[s0] -> (1, 2, s0, 16)> : !torch.vtensor<[1,2,?,16],f32>
    torch.bind_symbolic_shape %k, [%s0], affine_map<()[s0] -> (1, 2, s0, 16)> : !torch.vtensor<[1,2,?,16],f32>
    torch.bind_symbolic_shape %v, [%s0], affine_map<()[s0] -> (1, 2, s0, 16)> : !torch.vtensor<[1,2,?,16],f32>
    %float0 = torch.constant.float 0.000000e+00
    %false = torch.constant.bool false
    %none = torch.constant.none
    %true = torch.constant.bool true
    // Every argument of the schema is an operand, defaults included.
    %out = torch.aten.scaled_dot_product_attention %q, %k, %v, %none, %float0, %true, %none, %false : !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,2,?,16],f32>, !torch.vtensor<[1,2,?,16],f32>, !torch.none, !torch.float, !torch.bool, !torch.none, !torch.bool -> !torch.vtensor<[1,2,?,16],f32>
    return %out : !torch.vtensor<[1,2,?,16],f32>
  }
}
