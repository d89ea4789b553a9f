"""What agents prove themselves by at the token endpoint, and what it issues."""

import django.contrib.postgres.fields
import django.db.models.deletion
import uuid
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('accounts', '0004_people_sign_in'),
    ]

    operations = [
        migrations.AddField(
            model_name='agenttoken',
            name='carried',
            field=models.JSONField(blank=True, default=dict, help_text='What the token that it was made from said of the agent and who is behind it.'),
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='kind',
            field=models.CharField(choices=[('issued', 'issued by a person'), ('exchanged', 'from the token endpoint'), ('database_login', 'database login'), ('ssh_certificate', 'SSH certificate')], default='issued', editable=False, max_length=16),
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='parent',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.agenttoken'),
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='scram_verifier',
            field=models.CharField(blank=True, editable=False, max_length=200),
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='targets',
            field=django.contrib.postgres.fields.ArrayField(base_field=models.CharField(max_length=63), blank=True, help_text='The only targets that it opens; none: any.', null=True, size=None),
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='trust',
            field=models.ForeignKey(blank=True, help_text='Made from its JWT.', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.oidctrust'),
        ),
        migrations.CreateModel(
            name='OAuthClient',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('client_id', models.CharField(editable=False, max_length=20, unique=True)),
                ('label', models.CharField(blank=True, help_text='What it is for.', max_length=100)),
                ('authentication', models.CharField(choices=[('private_key_jwt', 'signed assertion (private_key_jwt)'), ('client_secret', 'client secret')], max_length=16)),
                ('digest', models.CharField(blank=True, editable=False, max_length=64)),
                ('public_keys', models.JSONField(blank=True, default=list, help_text='JWKs that verify its assertions.', verbose_name='public keys')),
                ('is_active', models.BooleanField(default=True)),
                ('last_used_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('agent', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='oauth_clients', to='accounts.agent')),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name': 'OAuth client',
                'ordering': ('-created_at',),
            },
        ),
        migrations.AddField(
            model_name='agenttoken',
            name='client',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='accounts.oauthclient'),
        ),
        migrations.CreateModel(
            name='ServiceToken',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('label', models.CharField(blank=True, help_text='What it is for.', max_length=100)),
                ('token_id', models.CharField(editable=False, max_length=16, unique=True)),
                ('digest', models.CharField(editable=False, max_length=64)),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('purpose', models.CharField(choices=[('scim', 'SCIM provisioning'), ('introspection', 'token introspection')], max_length=16)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'ordering': ('-created_at',),
                'indexes': [models.Index(fields=['expires_at'], name='accounts_se_expires_f9fc58_idx')],
            },
        ),
        migrations.CreateModel(
            name='SshAuthority',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('public_key', models.CharField(max_length=200)),
                ('sealed_key', models.TextField(editable=False)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'verbose_name_plural': 'SSH authorities',
                'constraints': [models.UniqueConstraint(fields=('tenant',), name='ssh_authority_once_per_tenant')],
            },
        ),
        migrations.CreateModel(
            name='UsedAssertion',
            fields=[
                ('id', models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('digest', models.CharField(max_length=64)),
                ('expires_at', models.DateTimeField(db_index=True)),
                ('tenant', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to='accounts.tenant')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('tenant', 'digest'), name='assertion_used_once')],
            },
        ),
        *(
            migrations.RunSQL(
                sql=f"SELECT narrowgate_isolate('accounts_{table}')",
                reverse_sql=f"SELECT narrowgate_expose('accounts_{table}')",
            )
            for table in ("oauthclient", "servicetoken", "sshauthority", "usedassertion")
        ),
    ]
