// RUN: attir opt %s --passes="quantize{key=bits=4,signed=0,zero=1,tokens=64,channels=1 smooth=true tensors=value_basis}" | filecheck %s

// Keys lose their mean, values go to another basis, and keys are stored; the attention reads what codes stand for. Since
// the log-sum-exp is returned, scores get back what rows of them lost; out comes back from the basis of values.
// CHECK: %smooth, %mean = "attn.subtract_mean"(%k)
// CHECK: %lost = "attn.project"(%q, %mean) <{group = 2 : i64, transposed}> : {{.*}} -> tensor<1x4x?x1xf32, #attir.sym<M>>
// CHECK: %value = "attn.project"(%v, %basis) <{group = 1 : i64}>
// CHECK: %key_codes, %key_scale, %key_zero = "attn.quantize"(%smooth)
// CHECK-SAME: (tensor<1x2x?x8xi8, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<key_groups>>, tensor<1x2x?x16xf32, #attir.sym<key_groups>>)
// CHECK: %out, %lse = "attn.attention"(%q, %key_codes, %value, %lost, %key_scale, %key_zero)
// CHECK: [[LOST:%[0-9]+]] = "tensor.extract"(%lost_1
// CHECK: [[SCALED:%[0-9]+]] = "arith.mulf"([[LOST]]
// CHECK: "arith.addf"(%s, [[SCALED]])
// CHECK: "arith.cmpi"
// CHECK: "attn.dequantize"(%k_1, %b_2, %h_2, %n_2, %d, %key_scale_3, %key_zero_3)
// CHECK: -> (tensor<1x4x?x8xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)
// CHECK: %restored = "attn.project"(%out, %basis) <{group = 2 : i64, transposed}>
// CHECK: "func.return"(%restored, %lse)
"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x1x16x8xf32>) -> (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>, %v: tensor<1x2x?x16xf32, #attir.sym<N>>, %basis: tensor<1x1x16x8xf32>):
    %out, %lse = "attn.attention"(%q, %k, %v) <{scale = 2.5e-01 : f32, group = 2 : i64}> ({
    }, {
    ^bb1(%b: index, %h: index, %m: index, %n: index):
      %c = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%c) : (i1) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)
    "func.return"(%out, %lse) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>) -> ()
  }) : () -> ()
}) : () -> ()
