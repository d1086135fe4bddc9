// torch-mlir's dialect becomes aten: constants are properties, operands have the names of their schema.
// RUN: attir opt %s --passes=convert-torch | filecheck %s

// What equals the schema's default is left out, numbers that stand for a dtype become one.
// CHECK-LABEL: function_type = (tensor<2x4xf32>) -> tensor<2x4xf16>, sym_name = "softmax"
// CHECK-NEXT: ^bb0(%[[X:.*]]: tensor<2x4xf32>)
// CHECK-NEXT: %[[P:.*]] = "aten.softmax.int"(%[[X]]) <{args = ["self"], dim = -1 : i64}> : (tensor<2x4xf32>) -> tensor<2x4xf32>
// CHECK-NEXT: %[[Y:.*]] = "aten._to_copy"(%[[P]]) <{args = ["self"], dtype = f16}> : (tensor<2x4xf32>) -> tensor<2x4xf16>
// CHECK-NEXT: "func.return"(%[[Y]])
func.func @softmax(%x: !torch.vtensor<[2,4],f32>) -> !torch.vtensor<[2,4],f16> {
  %int-1 = torch.constant.int -1
  %none = torch.constant.none
  %0 = torch.aten.softmax.int %x, %int-1, %none : !torch.vtensor<[2,4],f32>, !torch.int, !torch.none -> !torch.vtensor<[2,4],f32>
  %int5 = torch.constant.int 5
  %1 = torch.prims.convert_element_type %0, %int5 : !torch.vtensor<[2,4],f32>, !torch.int -> !torch.vtensor<[2,4],f16>
  return %1 : !torch.vtensor<[2,4],f16>
}

// Sizes get the names that are bound to them, and their arithmetic is Python's.
// CHECK-LABEL: sym_name = "sizes"
// CHECK-NEXT: ^bb0(%[[X:.*]]: tensor<?x4xi64, #attir.sym<s7>>)
// CHECK-NEXT: %[[N:.*]] = "aten.sym_size.int"(%[[X]]) <{args = ["self"], dim = 0 : i64}> : (tensor<?x4xi64, #attir.sym<s7>>) -> index
// CHECK-NEXT: %[[M:.*]] = "fx.add"(%[[N]]) <{arg1 = 1 : i64, args = ["arg0"]}> : (index) -> index
// CHECK-NEXT: "aten.view"(%[[X]], %[[N]]) <{args = ["self", "size"], size = [#aten.operand, 2 : i64, 2 : i64]}>
// CHECK-SAME: -> tensor<?x2x2xi64, #attir.sym<s7>>
func.func @sizes(%x: !torch.vtensor<[?,4],si64>) -> !torch.vtensor<[?,2,2],si64> {
  %s = torch.symbolic_int "s7" {min_val = 2, max_val = 64} : !torch.int
  torch.bind_symbolic_shape %x, [%s], affine_map<()[s0] -> (s0, 4)> : !torch.vtensor<[?,4],si64>
  %int0 = torch.constant.int 0
  %n = torch.aten.size.int %x, %int0 : !torch.vtensor<[?,4],si64>, !torch.int -> !torch.int
  %int1 = torch.constant.int 1
  %m = torch.aten.add.int %n, %int1 : !torch.int, !torch.int -> !torch.int
  %int2 = torch.constant.int 2
  %shape = torch.prim.ListConstruct %n, %int2, %int2 : (!torch.int, !torch.int, !torch.int) -> !torch.list<int>
  %0 = torch.aten.view %x, %shape : !torch.vtensor<[?,4],si64>, !torch.list<int> -> !torch.vtensor<[?,2,2],si64>
  torch.bind_symbolic_shape %0, [%s], affine_map<()[s0] -> (s0, 2, 2)> : !torch.vtensor<[?,2,2],si64>
  return %0 : !torch.vtensor<[?,2,2],si64>
}

// A list of tensors that is taken apart is an operation with several results; unknown operators stay, by number.
// CHECK-LABEL: sym_name = "lists"
// CHECK: %{{.*}}, %{{.*}} = "aten.split.Tensor"(%{{.*}}) <{args = ["self"], dim = -1 : i64, split_size = 2 : i64}>
// CHECK-NEXT: "fx.mine.unheard_of"(%{{.*}}) <{arg1 = 2.5e-01 : f64, args = ["arg0"]}>
func.func @lists(%x: !torch.vtensor<[2,4],f32>) -> !torch.vtensor<[2,2],f32> {
  %int2 = torch.constant.int 2
  %int-1 = torch.constant.int -1
  %0 = torch.aten.split.Tensor %x, %int2, %int-1 : !torch.vtensor<[2,4],f32>, !torch.int, !torch.int -> !torch.list<vtensor>
  %1:2 = torch.prim.ListUnpack %0 : !torch.list<vtensor> -> !torch.vtensor<[2,2],f32>, !torch.vtensor<[2,2],f32>
  %float2.500000e-01 = torch.constant.float 2.500000e-01
  %2 = torch.operator "torch.mine.unheard_of"(%1#1, %float2.500000e-01) : (!torch.vtensor<[2,2],f32>, !torch.float) -> !torch.vtensor<[2,2],f32>
  return %2 : !torch.vtensor<[2,2],f32>
}

// Literals of one number are numbers, others keep the name of their blob; the generic form may stand between.
// CHECK-LABEL: sym_name = "literals"
// CHECK: "aten.full"() <{dtype = i64, fill_value = 3 : i64, size = []}> : () -> tensor<i64>
// CHECK-NEXT: %weights = "torch.vtensor.literal"() <{value = dense_resource<weights> : tensor<2xf32>}> : () -> tensor<2xf32>
// CHECK-NEXT: "aten.mul.Tensor"
func.func @literals() -> !torch.vtensor<[2],f32> {
  %0 = torch.vtensor.literal(dense<3> : tensor<si64>) : !torch.vtensor<[],si64>
  %1 = "torch.vtensor.literal"() <{value = dense_resource<weights> : tensor<2xf32>}> : () -> !torch.vtensor<[2],f32>
  %2 = torch.aten.mul.Tensor %1, %0 : !torch.vtensor<[2],f32>, !torch.vtensor<[],si64> -> !torch.vtensor<[2],f32>
  return %2 : !torch.vtensor<[2],f32>
}

// A mutable tensor that is overwritten is written in place, once everything has read it.
// CHECK-LABEL: sym_name = "mutation"
// CHECK: %[[SUM:.*]] = "aten.add.Tensor"(%[[C:.*]], %{{.*}}) <{args = ["self", "other"]}>
// CHECK-NEXT: %[[OLD:.*]] = "aten.exp"(%[[C]])
// CHECK-NEXT: %[[NEW:.*]] = "aten.exp"(%[[SUM]])
// CHECK-NEXT: "aten.copy_"(%[[C]], %[[SUM]]) <{args = ["self", "src"]}>
// CHECK-NEXT: "func.return"(%[[OLD]], %[[NEW]])
// The bounds of sizes belong to the module.
// CHECK: attir.bounds = {s7 = array<i64: 2, 64>}
func.func @mutation(%c: !torch.tensor<[2],f32>, %x: !torch.vtensor<[2],f32>) -> (!torch.vtensor<[2],f32>, !torch.vtensor<[2],f32>) {
  %0 = torch.copy.to_vtensor %c : !torch.vtensor<[2],f32>
  %int1 = torch.constant.int 1
  %1 = torch.aten.add.Tensor %0, %x, %int1 : !torch.vtensor<[2],f32>, !torch.vtensor<[2],f32>, !torch.int -> !torch.vtensor<[2],f32>
  torch.overwrite.tensor.contents %1 overwrites %c : !torch.vtensor<[2],f32>, !torch.tensor<[2],f32>
  %2 = torch.aten.exp %0 : !torch.vtensor<[2],f32> -> !torch.vtensor<[2],f32>
  %3 = torch.copy.to_vtensor %c : !torch.vtensor<[2],f32>
  %4 = torch.aten.exp %3 : !torch.vtensor<[2],f32> -> !torch.vtensor<[2],f32>
  return %2, %4 : !torch.vtensor<[2],f32>, !torch.vtensor<[2],f32>
}
