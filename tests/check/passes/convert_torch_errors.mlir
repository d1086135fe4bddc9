// What cannot be converted, or read at all, is refused at its place.
// RUN: attir opt %s --passes=convert-torch --split-input-file --verify-diagnostics

func.func @count(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor<[2],f32> {
  // expected-error@+1 {{'torch.aten.mul.Tensor' op must have 2 operands (self, other), but has 1}}
  %0 = torch.aten.mul.Tensor %x : !torch.vtensor<[2],f32> -> !torch.vtensor<[2],f32>
  return %0 : !torch.vtensor<[2],f32>
}

// -----

func.func @rank(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor {
  // expected-error@+1 {{'torch.aten.exp' op has a tensor of unknown rank or dtype, !torch.vtensor; expected sizes, as in !torch.vtensor<[2,?],f32>}}
  %0 = torch.aten.exp %x : !torch.vtensor<[2],f32> -> !torch.vtensor
  return %0 : !torch.vtensor
}

// -----

func.func @dtype(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor<[2],f16> {
  %int99 = torch.constant.int 99
  // expected-error@+1 {{a dtype is given as 99, which stands for none that is known}}
  %0 = torch.prims.convert_element_type %x, %int99 : !torch.vtensor<[2],f32>, !torch.int -> !torch.vtensor<[2],f16>
  return %0 : !torch.vtensor<[2],f16>
}

// -----

func.func @list(%x: !torch.vtensor<[2],f32>) -> !torch.list<vtensor> {
  %int1 = torch.constant.int 1
  %int0 = torch.constant.int 0
  // expected-error@+1 {{computes a list of tensors that nothing takes apart}}
  %0 = torch.aten.split.Tensor %x, %int1, %int0 : !torch.vtensor<[2],f32>, !torch.int, !torch.int -> !torch.list<vtensor>
  return %0 : !torch.list<vtensor>
}

// -----

func.func @types(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor<[2],f32> {
  // expected-error@+1 {{the operation has 1 operand, but 2 operand types}}
  %0 = torch.aten.exp %x : !torch.vtensor<[2],f32>, !torch.int -> !torch.vtensor<[2],f32>
  return %0 : !torch.vtensor<[2],f32>
}

// -----

func.func @syntax(%x: !torch.vtensor<[2],f32>) -> !torch.vtensor<[2],f32> {
  // expected-error@+1 {{expected an operation of torch-mlir, or one with its name in quotes, but found 'tosa.exp'}}
  %0 = tosa.exp %x : !torch.vtensor<[2],f32>
  return %0 : !torch.vtensor<[2],f32>
}
