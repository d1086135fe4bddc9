// RUN: attir opt %s --passes=sparsify{estimator=quest} --split-input-file --verify-diagnostics

"builtin.module"() ({
  "func.func"() <{sym_name = "f", function_type = (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> tensor<1x4x?x16xf32, #attir.sym<M>>}> ({
  ^bb0(%q: tensor<1x4x?x16xf32, #attir.sym<M>>, %k: tensor<1x2x?x16xf32, #attir.sym<N>>, %v: tensor<1x2x?x16xf32, #attir.sym<N>>):
    // expected-error@below {{estimates read q and k as they enter the product, but region 'key' changes them}}
    %out, %lse = "attn.attention"(%q, %k, %v) <{scale = 2.5e-01 : f32, group = 2 : i64}> ({
    }, {
    }, {
    }, {
    }, {
    }, {
    ^bb1(%b: index, %h: index, %n: index, %d: index, %x: tensor<1x2x?x16xf32, #attir.sym<N>>):
      %e = "tensor.extract"(%x, %b, %h, %n, %d) : (tensor<1x2x?x16xf32, #attir.sym<N>>, index, index, index, index) -> f32
      "attn.yield"(%e) : (f32) -> ()
    }) : (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x2x?x16xf32, #attir.sym<N>>, tensor<1x2x?x16xf32, #attir.sym<N>>) -> (tensor<1x4x?x16xf32, #attir.sym<M>>, tensor<1x4x?xf32, #attir.sym<M>>)
    "func.return"(%out) : (tensor<1x4x?x16xf32, #attir.sym<M>>) -> ()
  }) : () -> ()
}) : () -> ()
