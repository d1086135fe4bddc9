// RUN: attir opt %s --passes="sparsify{estimator=quest block=32 parameters=keep=0.1,page=16}" | filecheck %s

// The choice is made under the mask, and narrows it: heads that share keys share blocks.
// CHECK: %blocks = "attn.select"(%q, %k) <{block_m = 64 : i64, block_n = 32 : i64, estimator = "quest", given = 0 : i64, group = 2 : i64, parameters = {keep = 1.0e-01 : f64, page = 16 : i64}, scale = 2.5e-01 : f32}>
// CHECK: "attn.attention"(%q, %k, %v, %blocks)
// CHECK: [[COLUMN:%[0-9]+]] = "arith.divsi"(%n_1
// CHECK-NEXT: %chosen = "tensor.extract"(%blocks_1, %b_1, {{.*}}, [[COLUMN]])
// CHECK-NEXT: %kept = "arith.andi"(%c_1, %chosen)
// CHECK-NEXT: "attn.yield"(%kept)
"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x4x?x16xf32, #attir.sym<M>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>, %v: tensor<1x2x?x16xf32, #attir.sym<N>>):
    %out, %lse = "attn.attention"(%q, %k, %v) <{scale = 2.5e-01 : f32, group = 2 : i64}> ({
    }, {
    ^bb1(%b: index, %h: index, %m: index, %n: index):
      %c = "arith.cmpi"(%n, %m) <{predicate = 3 : i64}> : (index, index) -> i1
      "attn.yield"(%c) : (i1) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)
    "func.return"(%out) : (tensor<1x4x?x16xf32, #attir.sym<M>>) -> ()
  }) : () -> ()
}) : () -> ()
